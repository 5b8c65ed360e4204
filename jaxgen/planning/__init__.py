"""What a training step would take on hardware that is not there: compiled, measured, reported."""
