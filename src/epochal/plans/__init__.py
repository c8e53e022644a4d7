"""Which batch size: measured, chosen, explained."""
