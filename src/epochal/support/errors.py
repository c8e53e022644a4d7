"""Errors that several rooms raise and the command line tells in one sentence."""

from __future__ import annotations


class InputError(ValueError):
    """What the user gave cannot be used; the message is one sentence that says what to do."""
