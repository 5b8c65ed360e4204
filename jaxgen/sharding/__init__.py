"""Device meshes, the table of logical axes, and the sharding of every array of a run."""
