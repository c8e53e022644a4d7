"""Batch size as a measured quantity: many fits, read side by side."""

from epochal.study.study import Study, batch_size_study

__all__ = ["Study", "batch_size_study"]
