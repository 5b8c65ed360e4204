"""What a trained run is worth: scorers, evaluation of a workdir, and the report."""
