"""Trained networks: the DEQ and the explicit network that is matched to it."""
