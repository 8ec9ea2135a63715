"""Networks, and the sizes they are known by."""
