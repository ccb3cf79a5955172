"""Random damage to sealed runs and to everything that is parsed: nothing is accepted, nothing ends in a traceback.

`python -m tests.fuzz runs|parsers` is the long form; tests/adversarial/test_fuzz.py runs a short one.
"""
