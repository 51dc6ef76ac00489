"""The commands: each parses, calls one function, and prints. What they do lives elsewhere.

Heavy modules are imported in the bodies of the commands, so that `--help` costs nothing.
"""
