"""Parameters on disk: checkpoints of runs, weights folders, and adoption of other shapes."""
