"""diffusers' ``AutoencoderDC``, as SANA has it, and our deep-compression autoencoder."""

from collections.abc import Mapping
from typing import Any

from jaxgen.conversion.engine import Rule
from jaxgen.conversion.engine import Rules
from jaxgen.conversion.family import Family
from jaxgen.conversion.family import Field
from jaxgen.conversion.family import Fixed
from jaxgen.conversion.tables.kl import norm
from jaxgen.conversion.tables.pieces import linear
from jaxgen.conversion.tables.sana import PIXEL
from jaxgen.conversion.transforms import CONV
from jaxgen.conversion.transforms import LINEAR
from jaxgen.core.errors import user_error
from jaxgen.models.autoencoders.dc import NEIGHBOURHOOD

PLAIN, ATTENDING = 'ResBlock', 'EfficientViTBlock'


def _half(half: str, way: str) -> Rules:
  """Encoder or decoder; a level's blocks and its resampler are numbered through."""
  ours, theirs = f'{half}/{way}_{{i}}_{{j}}', f'{half}.{way}_blocks.{{i}}.{{j}}'
  qkv = tuple(f'{theirs}.attn.to_{part}.weight' for part in 'qkv')
  mix = f'{theirs}.attn.to_qkv_multiscale.0'
  return (
      *linear(f'{half}/conv_in', f'{half}.conv_in', CONV),
      *linear(f'{ours}/conv', f'{theirs}.conv', CONV),
      *linear(f'{ours}/conv_0', f'{theirs}.conv1', CONV),
      *linear(f'{ours}/conv_1', f'{theirs}.conv2', CONV),
      *norm(f'{ours}/norm', f'{theirs}.norm'),
      Rule(f'{ours}/attention/qkv/kernel', qkv, LINEAR, fuse=1),
      *linear(f'{ours}/attention/mix', f'{mix}.proj_in', CONV),
      *linear(f'{ours}/attention/mix_heads', f'{mix}.proj_out', CONV),
      *linear(f'{ours}/attention/out', f'{theirs}.attn.to_out'),
      *norm(f'{ours}/attention_norm', f'{theirs}.attn.norm_out'),
      *linear(f'{ours}/mlp/up', f'{theirs}.conv_out.conv_inverted', PIXEL),
      *linear(f'{ours}/mlp/mix', f'{theirs}.conv_out.conv_depth', CONV),
      *linear(f'{ours}/mlp/down', f'{theirs}.conv_out.conv_point', PIXEL),
      *norm(f'{ours}/mlp_norm', f'{theirs}.conv_out.norm'),
      *norm(f'{half}/norm_out', f'{half}.norm_out'),
      *linear(f'{half}/conv_out', f'{half}.conv_out', CONV),
  )


RULES = _half('encoder', 'down') + _half('decoder', 'up')


def _types(attending: int, ours: Mapping[str, Any]) -> list[str]:
  plain = len(ours['block_channels']) - attending
  return [PLAIN] * plain + [ATTENDING] * attending


def _scales(attending: int, ours: Mapping[str, Any]) -> list[list[int]]:
  return [[NEIGHBOURHOOD] if kind == ATTENDING else [] for kind in _types(attending, ours)]


def _read_levels(types: str | list[str], theirs: Mapping[str, Any]) -> int:
  """How many of the coarsest levels attend; other arrangements of their class are refused."""
  sizes = list(theirs['encoder_block_out_channels'])
  attending, ours = list(types).count(ATTENDING), {'block_channels': sizes}
  wanted = {'block_types': _types(attending, ours), 'qkv_multiscales': _scales(attending, ours),
            'block_out_channels': sizes}
  for half in ('encoder', 'decoder'):
    for field, value in wanted.items():
      found = theirs[f'{half}_{field}']
      levels = [found] * len(sizes) if isinstance(found, str) else found
      if [list(level) if isinstance(level, tuple) else level for level in levels] != value:
        raise user_error(f'config.json: {half}_{field}', found, f'this model knows {value} only')
  return attending


def _layers(half: str) -> Field:
  return Field(f'{half}_layers', f'{half}_layers_per_block', read=lambda layers, _: tuple(layers),
               write=lambda layers, _: list(layers))


FAMILY = Family(
    name='dc_ae',
    marker=('_class_name', 'AutoencoderDC'),
    stem='diffusion_pytorch_model',
    rules=RULES,
    fields=(
        Field('channels', 'latent_channels'),
        Field('block_channels', 'encoder_block_out_channels', read=lambda sizes, _: tuple(sizes),
              write=lambda sizes, _: list(sizes)),
        Field('block_channels', 'decoder_block_out_channels', read=None,
              write=lambda sizes, _: list(sizes)),
        _layers('encoder'),
        _layers('decoder'),
        Field('attention_levels', 'encoder_block_types', read=_read_levels, write=_types),
        Field('attention_levels', 'decoder_block_types', read=None, write=_types),
        Field('attention_levels', 'encoder_qkv_multiscales', read=None, write=_scales),
        Field('attention_levels', 'decoder_qkv_multiscales', read=None, write=_scales),
        Field('head_dim', 'attention_head_dim', default=32),
        Field('scaling', 'scaling_factor', default=1.0),
        Fixed('downsample_block_type', 'conv', also=('Conv',)),
        Fixed('upsample_block_type', 'interpolate'),
        Fixed('decoder_norm_types', 'rms_norm', also=(('rms_norm',) * 6,)),
        Fixed('decoder_act_fns', 'silu', also=(('silu',) * 6,)),
        Fixed('decoder_conv_act_fn', 'relu'),
        Fixed('encoder_out_shortcut', True),
        Fixed('decoder_in_shortcut', True),
        Fixed('in_channels', 3),
    ),
)
