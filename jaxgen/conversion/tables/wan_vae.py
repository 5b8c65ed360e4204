"""Wan 2.1's autoencoder in three dresses: diffusers' ``AutoencoderKLWan`` and
``AutoencoderKLQwenImage``, which share their names, and the original ``Wan2.1_VAE.pth``."""

import dataclasses

from jaxgen.conversion.engine import Rule
from jaxgen.conversion.engine import Rules
from jaxgen.conversion.family import Family
from jaxgen.conversion.family import Field
from jaxgen.conversion.family import Fixed
from jaxgen.conversion.family import Layout
from jaxgen.conversion.family import Release
from jaxgen.conversion.tables.pieces import PIXEL
from jaxgen.conversion.tables.pieces import linear
from jaxgen.conversion.transforms import CONV
from jaxgen.conversion.transforms import CONV3D
from jaxgen.conversion.transforms import Squeeze
from jaxgen.core.errors import user_error
from jaxgen.models.autoencoders.wan import LAYERS

LEVELS = 6  # the most resolutions that the tables name; rules beyond a model's own are idle


@dataclasses.dataclass(frozen=True)
class _Names:
  """How a release names the parts of one half, and of a residual block."""

  conv_in: str = 'conv_in'
  blocks: tuple[str, str] = ('mid_block.resnets.0', 'mid_block.resnets.1')
  attention: str = 'mid_block.attentions.0'
  norm_out: str = 'norm_out'
  conv_out: str = 'conv_out'
  block: tuple[str, ...] = ('norm1', 'conv1', 'norm2', 'conv2', 'conv_shortcut')


ORIGINAL = _Names('conv1', ('middle.0', 'middle.2'), 'middle.1', 'head.0', 'head.2',
                  ('residual.0', 'residual.2', 'residual.3', 'residual.6', 'shortcut'))


def _norm(ours: str, theirs: str, dims: int) -> Rule:
  return Rule(f'{ours}/scale', f'{theirs}.gamma', (Squeeze(tuple(range(1, 1 + dims))),))


def _block(ours: str, theirs: str, names: _Names) -> Rules:
  norm_0, conv_0, norm_1, conv_1, shortcut = (f'{theirs}.{name}' for name in names.block)
  return (_norm(f'{ours}/norm_0', norm_0, 3), *linear(f'{ours}/conv_0', conv_0, CONV3D),
          _norm(f'{ours}/norm_1', norm_1, 3), *linear(f'{ours}/conv_1', conv_1, CONV3D),
          *linear(f'{ours}/shortcut', shortcut, CONV3D))


def _resample(ours: str, theirs: str) -> Rules:
  return (*linear(f'{ours}/conv', f'{theirs}.resample.1', CONV),
          *linear(f'{ours}/time_conv', f'{theirs}.time_conv', CONV3D))


def _attention(ours: str, theirs: str) -> Rules:
  joined = (Rule(f'{ours}/{part}/{leaf}', f'{theirs}.to_qkv.{name}', transforms, joined=True)
            for leaf, name, transforms in (('kernel', 'weight', PIXEL), ('bias', 'bias', ()))
            for part in 'qkv')
  return (_norm(f'{ours}/norm', f'{theirs}.norm', 2), *joined,
          *linear(f'{ours}/out', f'{theirs}.proj', PIXEL))


def _half(half: str, names: _Names) -> Rules:
  """What encoder and decoder have in common."""
  return (
      *linear(f'{half}/conv_in', f'{half}.{names.conv_in}', CONV3D),
      *_block(f'{half}/middle/block_0', f'{half}.{names.blocks[0]}', names),
      *_attention(f'{half}/middle/attention', f'{half}.{names.attention}'),
      *_block(f'{half}/middle/block_1', f'{half}.{names.blocks[1]}', names),
      _norm(f'{half}/norm_out', f'{half}.{names.norm_out}', 3),
      *linear(f'{half}/conv_out', f'{half}.{names.conv_out}', CONV3D))


def _in_a_row(half: str, way: str, sampler: str, row: str, layers: int, names: _Names) -> Rules:
  """The levels of a half whose blocks and resamplers are numbered through."""
  rules: list[Rule] = []
  for level in range(LEVELS):
    start = level * (layers + 1)
    for layer in range(layers):
      rules += _block(f'{half}/{way}_{level}_{layer}', f'{half}.{row}.{start + layer}', names)
    rules += _resample(f'{half}/{sampler}_{level}', f'{half}.{row}.{start + layers}')
  return tuple(rules)


RULES = (
    *_half('encoder', _Names()),
    *_in_a_row('encoder', 'down', 'downsample', 'down_blocks', LAYERS, _Names()),
    *_half('decoder', _Names()),
    *_block('decoder/up_{i}_{j}', 'decoder.up_blocks.{i}.resnets.{j}', _Names()),
    *_resample('decoder/upsample_{i}', 'decoder.up_blocks.{i}.upsamplers.0'),
    *linear('moments_out', 'quant_conv', CONV3D),
    *linear('latents_in', 'post_quant_conv', CONV3D),
)

ORIGINAL_RULES = (
    *_half('encoder', ORIGINAL),
    *_in_a_row('encoder', 'down', 'downsample', 'downsamples', LAYERS, ORIGINAL),
    *_half('decoder', ORIGINAL),
    *_in_a_row('decoder', 'up', 'upsample', 'upsamples', LAYERS + 1, ORIGINAL),
    *linear('moments_out', 'conv1', CONV3D),
    *linear('latents_in', 'conv2', CONV3D),
)


def _multiples(channels: tuple[int, ...], _) -> list[int]:
  if any(value % channels[0] for value in channels):
    raise user_error('config.model.autoencoder.block_channels', channels,
                     'must be multiples of the first; this model has no export')
  return [value // channels[0] for value in channels]


FAMILY = Family(
    name='wan_vae',
    marker=('_class_name', 'AutoencoderKLWan'),
    stem='diffusion_pytorch_model',
    rules=RULES,
    fields=(
        Field('block_channels', 'dim_mult',
              read=lambda multiples, theirs: tuple(theirs['base_dim'] * m for m in multiples),
              write=_multiples),
        Field('block_channels', 'base_dim', read=None, write=lambda channels, _: channels[0]),
        Field('temporal', 'temperal_downsample', read=lambda steps, _: tuple(steps),
              write=lambda steps, _: list(steps)),
        Field('mean', 'latents_mean', read=lambda values, _: tuple(values),
              write=lambda values, _: list(values)),
        Field('std', 'latents_std', read=lambda values, _: tuple(values),
              write=lambda values, _: list(values)),
        Field('mean', 'z_dim', read=None, write=lambda mean, _: len(mean)),
        Fixed('num_res_blocks', LAYERS),
        Fixed('attn_scales', ()),
        Fixed('dropout', 0.0),
    ),
)

# What only Wan 2.2's larger autoencoder has otherwise.
_WAN_ONLY = (
    Field('block_channels', 'scale_factor_spatial', read=None,
          write=lambda channels, _: 2 ** (len(channels) - 1)),
    Field('temporal', 'scale_factor_temporal', read=None, write=lambda steps, _: 2 ** sum(steps)),
    Fixed('is_residual', False),
    Fixed('decoder_base_dim', None),
    Fixed('in_channels', 3),
    Fixed('out_channels', 3),
    Fixed('patch_size', None),
)

QWEN_IMAGE = dataclasses.replace(FAMILY, marker=('_class_name', 'AutoencoderKLQwenImage'))
FAMILY = dataclasses.replace(
    FAMILY, fields=FAMILY.fields + _WAN_ONLY,
    others=(Layout('original', ORIGINAL_RULES, published=(Release('Wan 2.1'),)),))
