"""Training objectives: interpolants, timesteps and loss terms, all pure functions."""
