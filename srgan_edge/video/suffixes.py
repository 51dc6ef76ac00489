"""The names of video files."""

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg"}
    | {".vob", ".flv", ".wmv", ".3gp", ".ogv", ".y4m"}
)
"""Suffixes, in lowercase, of files that are read as videos; opening one checks its content."""
