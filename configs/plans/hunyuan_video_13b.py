"""A full fine-tune of a HunyuanVideo-sized denoiser on 1024 px images, like flux_12b.py.

  jaxgen plan --config=configs/plans/hunyuan_video_13b.py --topology=tpu:v5p:4x4x4
  jaxgen plan --config=configs/plans/hunyuan_video_13b.py --topology=gpu:h800:8x8

The denoiser is HunyuanVideo's, 20 double and 40 single blocks of width 3072, its refiner and its
pooled vector; the conditioning is IOMM's, so its input has 1536 channels.
"""

from configs.iomm import base
from configs.plans import flux_12b
from jaxgen.models.registry import section


def get_config():
  return flux_12b.at_1024(section('hunyuan_video', cond_dim=base.MLLM_WIDTH, guidance_embed=False,
                                  remat='dots'))
