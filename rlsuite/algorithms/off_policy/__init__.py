"""Algorithms that act, and learn from a replay buffer of all that was seen."""
