"""Pictures to pictures with a trained model."""
