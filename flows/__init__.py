"""Compositions of tasks. `round.py` is one round, top to bottom."""
