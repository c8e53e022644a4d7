"""A run on disk: checkpoints, how it is resumed, its log."""
