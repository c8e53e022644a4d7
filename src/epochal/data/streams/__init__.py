"""Data that comes in batches."""
