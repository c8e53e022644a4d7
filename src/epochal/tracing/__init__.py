"""What travels beside a value while a model is called."""
