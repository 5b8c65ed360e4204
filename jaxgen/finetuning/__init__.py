"""``jaxgen finetune``: a published model, a folder of images, one command."""
