"""Training objectives: loss terms, timesteps and noise, all pure functions."""
