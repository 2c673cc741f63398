"""udk: rootless containers and software distribution, for users without any privilege."""

__version__ = "0.1.0"
