"""Decode untrusted files in sandboxed child processes."""
