"""Parameters on disk: checkpoints, weights folders, and fitting weights to another model."""
