"""Features of images and texts from frozen towers: CLIP, SigLIP, SigLIP 2, DINO and DINOv2."""
