"""Learning by acting, from a replay buffer of all that was seen; continuous actions."""
