"""Model architectures for training, one module each."""
