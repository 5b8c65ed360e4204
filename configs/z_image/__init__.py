"""Z-Image as published, to fine-tune on one's own images."""
