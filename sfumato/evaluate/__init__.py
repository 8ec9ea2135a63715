"""Numbers that carry their protocol: scores, comparisons, and a look at the data before training."""
