"""Upscale a video file in segments, so that an interrupted job resumes."""
