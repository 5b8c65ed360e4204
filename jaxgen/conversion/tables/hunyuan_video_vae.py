"""diffusers' ``AutoencoderKLHunyuanVideo`` and our HunyuanVideo autoencoder.

The class of the release, ``AutoencoderKLCausal3D``, names its parameters alike.
"""

import dataclasses
from typing import Any

from jaxgen.conversion.family import Family
from jaxgen.conversion.family import Field
from jaxgen.conversion.family import Fixed
from jaxgen.conversion.tables.kl import half
from jaxgen.conversion.tables.pieces import linear
from jaxgen.conversion.transforms import CONV3D

RULES = (
    *half('encoder', 'down', 'downsample', CONV3D, wrap='.conv'),
    *half('decoder', 'up', 'upsample', CONV3D, wrap='.conv'),
    *linear('moments_out', 'quant_conv', CONV3D),
    *linear('latents_in', 'post_quant_conv', CONV3D),
)


FAMILY = Family(
    name='hunyuan_video_vae',
    marker=('_class_name', 'AutoencoderKLHunyuanVideo'),
    stem='diffusion_pytorch_model',
    rules=RULES,
    fields=(
        Field('channels', 'latent_channels'),
        Field('block_channels', 'block_out_channels', read=lambda sizes, _: tuple(sizes)),
        # Their class makes as many blocks as it is given types.
        Field('block_channels', 'down_block_types', read=None,
              write=lambda sizes, _: ['HunyuanVideoDownBlock3D'] * len(sizes)),
        Field('block_channels', 'up_block_types', read=None,
              write=lambda sizes, _: ['HunyuanVideoUpBlock3D'] * len(sizes)),
        Field('block_channels', 'spatial_compression_ratio', read=None,
              write=lambda sizes, _: 2 ** (len(sizes) - 1)),
        Field('layers_per_block', 'layers_per_block'),
        Field('norm_groups', 'norm_num_groups', default=32),
        Field('scaling', 'scaling_factor'),
        Fixed('temporal_compression_ratio', 4),
        Fixed('in_channels', 3),
        Fixed('out_channels', 3),
        Fixed('act_fn', 'silu'),
        Fixed('mid_block_add_attention', True),
    ),
)



def _side(size: int | list[int], _: Any) -> int:
  return size if isinstance(size, int) else size[0]


def _stride(size: int | list[int], theirs: Any) -> int:
  """Tiles overlap by a quarter."""
  return _side(size, theirs) * 3 // 4


# The release always works in tiles, and the norms see a tile at a time.
RELEASED = dataclasses.replace(
    FAMILY, marker=('_class_name', 'AutoencoderKLCausal3D'),
    fields=tuple(
        Fixed('time_compression_ratio', 4) if field == Fixed('temporal_compression_ratio', 4)
        else field for field in FAMILY.fields) + (
            Field('tiling.size', 'sample_size', read=_side),
            Field('tiling.stride', 'sample_size', read=_stride,
                  write=lambda _, ours: ours['tiling']['size']),
            Field('tiling.frames', 'sample_tsize'),
            Field('tiling.frame_stride', 'sample_tsize', read=_stride,
                  write=lambda _, ours: ours['tiling']['frames'])))
