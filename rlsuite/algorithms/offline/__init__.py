"""Algorithms that learn from a data set, without the environment."""
