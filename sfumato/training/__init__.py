"""Training: one call, one loop, one folder a run."""
