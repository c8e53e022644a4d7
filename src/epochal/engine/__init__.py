"""The machine: state in, state out."""
