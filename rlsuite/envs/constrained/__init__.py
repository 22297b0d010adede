"""Tasks with constraints that no other package has."""
