"""Device meshes, the table of logical axes, and where every array of a run lives."""
