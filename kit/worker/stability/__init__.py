"""A training that goes on for days under supervision: its journal, its ranks, its supervisor, and faults put in on purpose."""
