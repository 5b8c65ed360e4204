"""Published benchmarks: their prompts, the folders that their scorers read, and their scores."""
