"""Evaluation of generated images, and the report of a run."""
