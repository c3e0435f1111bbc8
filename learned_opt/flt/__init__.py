"""Learned Fourier relative positional encodings (arXiv 2302.01925)."""
