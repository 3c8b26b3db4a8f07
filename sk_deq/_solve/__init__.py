"""Linear algebra of kernel ridge regression; knows kernels as functions, and no DEQ."""
