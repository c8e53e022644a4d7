"""Formulations that are fast on a CPU."""
