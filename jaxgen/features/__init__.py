"""Features of images and texts from frozen towers: CLIP, SigLIP, DINO and DINOv2."""
