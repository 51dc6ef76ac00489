"""CUDA kernels, each beside the numpy reference that is its specification. None is needed yet: the
exported graph does its own conversions, and on a CPU there is nothing to launch."""
