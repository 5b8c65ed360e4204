"""What training minimises: interpolants, timesteps and loss terms, each a pure function."""
