"""Suites: one module each with `run(case, recorder)`."""
