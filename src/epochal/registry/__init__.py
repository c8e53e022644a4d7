"""Objects by name and as data. Nothing here knows of training."""
