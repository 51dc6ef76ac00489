"""Models: the network, its spec, and the files that hold them."""
