"""Scores under profiles of data: formulas (exact), rows and totals of the report's tables, baselines, what a ruling changes."""
