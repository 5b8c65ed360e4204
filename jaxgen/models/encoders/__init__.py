"""Encoders of the conditioning: vision towers, causal language models and their compositions."""
