"""Scores: what a model makes, judged."""
