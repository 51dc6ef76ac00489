"""CUDA kernels, each beside the numpy reference that is its specification: `NAME.cu` and `NAME.py`.

A reference says what its kernels compute, the parameters they take, and how many `threads` of
theirs that needs. Nothing here is needed without a GPU.
"""
