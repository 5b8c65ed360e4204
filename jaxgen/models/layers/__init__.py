"""Building blocks that every model shares."""
