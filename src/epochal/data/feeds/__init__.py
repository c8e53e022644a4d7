"""Batches for a compiled loop."""
