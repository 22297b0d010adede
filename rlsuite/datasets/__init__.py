"""Offline data: from Minari and D4RL files, or collected here, to one flat record."""
