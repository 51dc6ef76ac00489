"""Image files: read and written without losing what they hold."""
