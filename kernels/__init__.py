"""CUDA kernels, each beside a numpy reference as its specification: `NAME.cu` and `NAME.py`.

A reference defines what its kernels compute, their parameters, and the number of `threads` to
launch. Only a GPU needs this package.
"""
