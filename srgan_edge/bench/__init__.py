"""Measure how fast models run on this machine, against PyTorch: `srgan-edge bench`."""
