"""From what users pass to batches on the device."""
