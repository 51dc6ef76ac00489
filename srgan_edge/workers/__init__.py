"""Several engines that make segments of one video: processes of this machine, or a Ray cluster."""
