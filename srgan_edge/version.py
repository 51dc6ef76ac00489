"""The version, in a file that the build reads without importing the package; and others'."""

import importlib.metadata

__version__ = "0.1.0"


def installed_version(distribution: str) -> str | None:
    """The version of a distribution as pip knows it; None if it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
