"""Upscale pipes and live sources in one pass."""
