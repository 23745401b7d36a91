"""Fused kernels for GPUs; the only importer of triton, and only when a kernel is asked for."""
