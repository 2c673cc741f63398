"""``python -m udk``."""

from udk.cli.main import console

console()
