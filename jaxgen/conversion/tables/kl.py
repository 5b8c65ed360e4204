"""diffusers' ``AutoencoderKL`` without quantisation convolutions and our KL autoencoder.

The same weights are published by Black Forest Labs under names of their own.
"""

import dataclasses

from jaxgen.conversion.engine import Rule
from jaxgen.conversion.family import Family
from jaxgen.conversion.family import Field
from jaxgen.conversion.family import Fixed
from jaxgen.conversion.family import Layout
from jaxgen.conversion.family import Release
from jaxgen.conversion.tables.pieces import PIXEL
from jaxgen.conversion.tables.pieces import Transforms
from jaxgen.conversion.tables.pieces import linear
from jaxgen.conversion.transforms import CONV


def norm(ours: str, theirs: str) -> tuple[Rule, ...]:
  """Rules of a norm."""
  return (Rule(f'{ours}/scale', f'{theirs}.weight'), Rule(f'{ours}/bias', f'{theirs}.bias'))


def half(name: str, way: str, sampler: str, conv: Transforms = CONV, wrap: str = ''
         ) -> tuple[Rule, ...]:
  """Rules of an encoder or decoder: the same parts, but for the direction in the names.

  Args:
    name: ``encoder`` or ``decoder``.
    way: ``down`` or ``up``.
    sampler: what changes the resolution.
    conv: layout of a convolution.
    wrap: what their class puts between the name of a convolution and its parameters.
  """
  def block(ours, theirs):
    return (
        *norm(f'{ours}/norm_0', f'{theirs}.norm1'),
        *linear(f'{ours}/conv_0', f'{theirs}.conv1{wrap}', conv),
        *norm(f'{ours}/norm_1', f'{theirs}.norm2'),
        *linear(f'{ours}/conv_1', f'{theirs}.conv2{wrap}', conv),
        *linear(f'{ours}/shortcut', f'{theirs}.conv_shortcut{wrap}', conv))

  ours, theirs = f'{name}/middle/attention', f'{name}.mid_block.attentions.0'
  return (
      *linear(f'{name}/conv_in', f'{name}.conv_in{wrap}', conv),
      *block(f'{name}/{way}_{{i}}_{{j}}', f'{name}.{way}_blocks.{{i}}.resnets.{{j}}'),
      *linear(f'{name}/{sampler}_{{i}}', f'{name}.{way}_blocks.{{i}}.{sampler}rs.0.conv{wrap}',
              conv),
      *block(f'{name}/middle/block_{{i}}', f'{name}.mid_block.resnets.{{i}}'),
      *norm(f'{ours}/norm', f'{theirs}.group_norm'),
      *linear(f'{ours}/q', f'{theirs}.to_q'),
      *linear(f'{ours}/k', f'{theirs}.to_k'),
      *linear(f'{ours}/v', f'{theirs}.to_v'),
      *linear(f'{ours}/out', f'{theirs}.to_out.0'),
      *norm(f'{name}/norm_out', f'{name}.conv_norm_out'),
      *linear(f'{name}/conv_out', f'{name}.conv_out{wrap}', conv),
  )


RULES = half('encoder', 'down', 'downsample') + half('decoder', 'up', 'upsample')


def _original(name: str, way: str, sampler: str, number: str, last: str) -> tuple[Rule, ...]:
  """``half`` under the names of Black Forest Labs, which number the decoder from its end.

  Args:
    name, way, sampler: as in ``half``.
    number: wildcard of a resolution in their names.
    last: ``Rule.backwards``.
  """
  def block(ours, theirs):
    return (
        *norm(f'{ours}/norm_0', f'{theirs}.norm1'),
        *linear(f'{ours}/conv_0', f'{theirs}.conv1', CONV),
        *norm(f'{ours}/norm_1', f'{theirs}.norm2'),
        *linear(f'{ours}/conv_1', f'{theirs}.conv2', CONV),
        *linear(f'{ours}/shortcut', f'{theirs}.nin_shortcut', CONV))

  numbered = (*block(f'{name}/{way}_{{i}}_{{j}}', f'{name}.{way}.{number}.block.{{j}}'),
              *linear(f'{name}/{sampler}_{{i}}', f'{name}.{way}.{number}.{sampler}.conv', CONV))
  ours, theirs = f'{name}/middle/attention', f'{name}.mid.attn_1'
  return (
      *(dataclasses.replace(rule, backwards=last) for rule in numbered),
      *linear(f'{name}/conv_in', f'{name}.conv_in', CONV),
      *block(f'{name}/middle/block_0', f'{name}.mid.block_1'),
      *block(f'{name}/middle/block_1', f'{name}.mid.block_2'),
      *norm(f'{ours}/norm', f'{theirs}.norm'),
      *(rule for part in 'qkv' for rule in linear(f'{ours}/{part}', f'{theirs}.{part}', PIXEL)),
      *linear(f'{ours}/out', f'{theirs}.proj_out', PIXEL),
      *norm(f'{name}/norm_out', f'{name}.norm_out'),
      *linear(f'{name}/conv_out', f'{name}.conv_out', CONV),
  )


ORIGINAL_RULES = (
    *_original('encoder', 'down', 'downsample', '{i}', ''),
    *_original('decoder', 'up', 'upsample', '{r}', 'decoder/up_{i}_0/conv_0/kernel'))


FAMILY = Family(
    name='kl',
    marker=('_class_name', 'AutoencoderKL'),
    stem='diffusion_pytorch_model',
    rules=RULES,
    fields=(
        Field('channels', 'latent_channels'),
        Field('block_channels', 'block_out_channels', read=lambda sizes, _: tuple(sizes)),
        # Their class makes as many blocks as it is given types, and only warns of the others.
        Field('block_channels', 'down_block_types', read=None,
              write=lambda sizes, _: ['DownEncoderBlock2D'] * len(sizes)),
        Field('block_channels', 'up_block_types', read=None,
              write=lambda sizes, _: ['UpDecoderBlock2D'] * len(sizes)),
        Field('layers_per_block', 'layers_per_block'),
        Field('norm_groups', 'norm_num_groups', default=32),
        Field('scaling', 'scaling_factor'),
        Field('shift', 'shift_factor', default=0.0),
        Fixed('in_channels', 3),
        Fixed('out_channels', 3),
        Fixed('act_fn', 'silu'),
        Fixed('use_quant_conv', False),
        Fixed('use_post_quant_conv', False),
        Fixed('mid_block_add_attention', True),
        Fixed('latents_mean', None),
        Fixed('latents_std', None),
    ),
    others=(Layout('original', ORIGINAL_RULES, published=(
        # The same sizes as FLUX's ae.safetensors.
        Release('Stable Diffusion 3', {'scaling': 1.5305, 'shift': 0.0609},
                path='sd3|stable-?diffusion-?3'),
        Release('FLUX.1'))),),
)
