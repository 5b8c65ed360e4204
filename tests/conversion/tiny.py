"""A tiny model of every family that conversion knows."""

import functools

import jax.numpy as jnp
import numpy as np

from jaxgen.conversion import families
from jaxgen.core import trees
from jaxgen.models import registry

TEXT = dict(vocab=11, width=16, layers=2, heads=4, kv_heads=2, mlp=20)
TOWER = TEXT | dict(qkv_bias=False)
VISION = dict(image_size=8, patch_size=2, width=8, layers=2, heads=2, mlp=16)
SIGLIP = dict(projection=8, has_bias=True, image=dict(
    pool='attention', vision=VISION | dict(class_token=False)), text=dict(
        vocab=11, width=16, layers=2, heads=2, mlp=20, causal=False))
BLOCKS = dict(width=24, heads=2, cond_dim=16, axes_dims=(4, 4, 4))
TINY = {
    'residual_queries': dict(width=16, queries=3, heads=2),
    'learnable_queries': dict(width=16, queries=3),
    'mlp_connector': dict(width=8, hidden=6, out_width=10),
    'encoder_connector': dict(width=8, layers=2, heads=2, mlp=12, out_width=6),
    'layers_connector': dict(width=8, layers=3, out_width=6),
    'clip_text': dict(vocab=11, width=16, layers=2, heads=2, mlp=20, positions=7),
    'clip': dict(projection=6, text=dict(vocab=11, width=16, layers=2, heads=2, mlp=20),
                 image=dict(projection=6, vision=VISION | dict(pre_norm=True, patch_bias=False))),
    'siglip': SIGLIP,
    'siglip2': SIGLIP | dict(image=SIGLIP['image'] | dict(naflex=True)),
    'dino': dict(vision=VISION),
    'dinov2': dict(vision=VISION | dict(layer_scale=1.0)),
    'dinov2_registers': dict(vision=VISION | dict(layer_scale=1.0, registers=3,
                                                  resize='antialiased_cubic')),
    't5': dict(vocab=11, width=16, layers=2, heads=2, head_channels=6, mlp=20),
    'llama': TOWER,
    'qwen3': TOWER | dict(qk_norm=True, head_channels=6),
    'internvl': dict(image_token_id=3, text=TEXT, vision=VISION),
    'qwen2_5_vl': dict(
        text=TEXT | dict(rope_sections=(1, 1, 0)), image_token_id=3, video_token_id=4,
        vision_start_id=5, vision_end_id=6, vision=dict(
            width=8, layers=2, heads=2, mlp=12, patch_size=2, window=8, full_attention=(1,))),
    'mmdit': BLOCKS | dict(in_channels=8, double_blocks=2, single_blocks=2, pooled_dim=6,
                           guidance_embed=True),
    'hunyuan_video': BLOCKS | dict(in_channels=8, out_channels=8, double_blocks=2,
                                   single_blocks=2, refiner_blocks=2, pooled_dim=6),
    'qwen_image': BLOCKS | dict(in_channels=8, out_channels=8, layers=2),
    'sd3': dict(in_channels=8, out_channels=8, layers=3, width=24, heads=2, cond_dim=16,
                pooled_dim=6, axes_dims=(), position_grid=4, text_norm=False, text_ends=True,
                qk_norm=False),
    'cosmos': dict(in_channels=8, cond_dim=20, text_dim=12, width=32, heads=2, layers=2,
                   modulation_rank=6),
    'sana': dict(in_channels=4, cond_dim=12, width=16, heads=2, cross_heads=2, layers=2),
    'z_image': dict(in_channels=8, cond_dim=12, width=24, heads=2, layers=2, refiner_layers=1,
                    axes_dims=(4, 4, 4)),
    'kl': dict(channels=2, block_channels=(8, 8), layers_per_block=1, norm_groups=4),
    'hunyuan_video_vae': dict(channels=2, block_channels=(8, 8, 8, 8), layers_per_block=1,
                              norm_groups=4),
    'wan_vae': dict(block_channels=(4, 8), temporal=(True,), mean=(0.0, 0.1), std=(1.0, 2.0)),
    'dc_ae': dict(channels=4, block_channels=(4, 8, 8), encoder_layers=(1, 2, 1),
                  decoder_layers=(1, 1, 2), attention_levels=1, head_dim=4),
}


@functools.cache
def shapes_of(name):
  return families.shapes_of(registry.section(name, **TINY[name]))


def model_of(name, dtype, layout=''):
  """A module that a layout can hold, and random parameters."""
  implied = {field.ours: field.value for field in families.TABLES[name].layout(layout).implied}
  module = registry.build(registry.section(name, **TINY[name] | implied), jnp.dtype(dtype))
  rng = np.random.default_rng(0)
  return module, trees.map_named(lambda _, leaf: rng.normal(size=leaf.shape).astype(dtype),
                                 shapes_of(name))
