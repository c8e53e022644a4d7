"""The command line."""

from epochal.cli.program import main

__all__ = ["main"]
