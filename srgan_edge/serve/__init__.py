"""Upscaling over HTTP: a queue of jobs, a page, limits and metrics."""
