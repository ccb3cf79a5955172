"""Replays sealed runs: reads evidence strictly, checks seal, files and log, and computes every number of the report.

An auditor needs this package, a run directory and a Python interpreter; no network, no accelerator, no `kit`.
"""
