"""What a run leaves on disk: Orbax checkpoints, weights, and weights that begin with other shapes."""
