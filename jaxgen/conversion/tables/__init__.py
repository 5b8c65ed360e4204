"""Name tables: one external family per file, data only."""
