"""The data pipeline: sources, decode, buckets, templates and tokens, packing, mixture, loader."""
