"""Training: data, degradation and the loops that make weights. Needs `srgan-edge[train]`."""
