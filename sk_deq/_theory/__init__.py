"""What infinitely wide networks compute: expectations, kernels, and the matching of networks."""
