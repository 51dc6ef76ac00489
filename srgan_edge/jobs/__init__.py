"""Plan the jobs of a command, and report their results."""
