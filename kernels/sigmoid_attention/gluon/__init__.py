"""Gluon kernels for Hopper: explicit warp specialisation, TMA and asynchronous matrix products."""
