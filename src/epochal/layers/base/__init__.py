"""The layer itself: its weights, its call, the layers inside it."""
