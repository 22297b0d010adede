"""Learning by acting, from what the current policy collected; discrete and continuous actions."""
