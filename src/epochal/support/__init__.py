"""What every part of epochal uses and nothing of JAX needs: warnings that name the user's line, errors, types.

Imports nothing of epochal, and re-exports nothing: import from the files.
"""
