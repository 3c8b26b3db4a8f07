"""Kernel ridge regression with the kernel of a DEQ."""
