"""Checkpoints of a training: what is in them, three ways to write them, where they lie, and how fast that place is."""
