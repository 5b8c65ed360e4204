"""One train step, one loop, one checkpoint format, whatever the system."""
