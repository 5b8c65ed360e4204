"""Edits and references at 64 pixels on two CPU cores: a folder of one's own with control images.

  launch/photos.sh FOLDER runs/mine

takes this config where the folder holds images to edit or to refer to (README.md says in which
layouts). Stages and sizes are those of photos.py, but the last one learns every sample by its
roles: an edit, references, or a plain caption. Up to three images stand in the prompt.
"""

from ml_collections import ConfigDict

from configs.iomm import photos

IMAGES = 3  # in one prompt; one that is to be reconstructed takes one place


def get_config(stage: str = 'finetune') -> ConfigDict:
  config = photos.get_config(stage)
  if stage == 'finetune':
    config.data.sources.pairs.task = 'auto'
    side = config.data.vision_size // config.model.mllm.vision.patch_size
    config.data.patches = IMAGES * side**2
    config.data.prompt_tokens = 128  # 18 for each image, 8 queries, 66 for the instruction
  return config
