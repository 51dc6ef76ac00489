"""Video files: frames, color and time stamps, decoding, encoding and muxing."""
