"""diffusers' ``AutoencoderKL`` without quantisation convolutions and our KL autoencoder."""

from jaxgen.conversion.engine import Rule
from jaxgen.conversion.family import Family
from jaxgen.conversion.family import Field
from jaxgen.conversion.family import Fixed
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
)
