"""Diffusion policies: cloned from data, then tuned in environments."""
