"""Ready-made tasks on real and synthetic data."""
