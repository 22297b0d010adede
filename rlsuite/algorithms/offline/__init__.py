"""Learning from a data set, without the environment; continuous actions."""
