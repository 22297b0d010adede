"""What algorithms are made of; imports PyTorch and NumPy only."""
