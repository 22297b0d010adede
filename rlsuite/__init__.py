"""rlsuite: reinforcement-learning papers, one file each, trained on many seeds at once."""

__version__ = "0.1.0"
