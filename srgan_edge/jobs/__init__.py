"""What is to be done, and the report of what was done."""
