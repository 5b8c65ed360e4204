"""diffusers' ``AutoencoderKL`` without quantisation convolutions and our KL autoencoder."""

from jaxgen.conversion.engine import Rule
from jaxgen.conversion.family import Family
from jaxgen.conversion.family import Field
from jaxgen.conversion.family import Fixed
from jaxgen.conversion.transforms import CONV
from jaxgen.conversion.transforms import LINEAR


def _conv(ours: str, theirs: str) -> tuple[Rule, ...]:
  return (Rule(f'{ours}/kernel', f'{theirs}.weight', CONV), Rule(f'{ours}/bias', f'{theirs}.bias'))


def _linear(ours: str, theirs: str) -> tuple[Rule, ...]:
  return (Rule(f'{ours}/kernel', f'{theirs}.weight', LINEAR),
          Rule(f'{ours}/bias', f'{theirs}.bias'))


def _norm(ours: str, theirs: str) -> tuple[Rule, ...]:
  return (Rule(f'{ours}/scale', f'{theirs}.weight'), Rule(f'{ours}/bias', f'{theirs}.bias'))


def _block(ours: str, theirs: str) -> tuple[Rule, ...]:
  return (*_norm(f'{ours}/norm_0', f'{theirs}.norm1'), *_conv(f'{ours}/conv_0', f'{theirs}.conv1'),
          *_norm(f'{ours}/norm_1', f'{theirs}.norm2'), *_conv(f'{ours}/conv_1', f'{theirs}.conv2'),
          *_conv(f'{ours}/shortcut', f'{theirs}.conv_shortcut'))


def _half(half: str, way: str, sampler: str) -> tuple[Rule, ...]:
  """Encoder or decoder: the same parts, but for the direction in the names."""
  attention = f'{half}.mid_block.attentions.0'
  return (
      *_conv(f'{half}/conv_in', f'{half}.conv_in'),
      *_block(f'{half}/{way}_{{i}}_{{j}}', f'{half}.{way}_blocks.{{i}}.resnets.{{j}}'),
      *_conv(f'{half}/{sampler}_{{i}}', f'{half}.{way}_blocks.{{i}}.{sampler}rs.0.conv'),
      *_block(f'{half}/middle/block_{{i}}', f'{half}.mid_block.resnets.{{i}}'),
      *_norm(f'{half}/middle/attention/norm', f'{attention}.group_norm'),
      *_linear(f'{half}/middle/attention/q', f'{attention}.to_q'),
      *_linear(f'{half}/middle/attention/k', f'{attention}.to_k'),
      *_linear(f'{half}/middle/attention/v', f'{attention}.to_v'),
      *_linear(f'{half}/middle/attention/out', f'{attention}.to_out.0'),
      *_norm(f'{half}/norm_out', f'{half}.conv_norm_out'),
      *_conv(f'{half}/conv_out', f'{half}.conv_out'),
  )


RULES = _half('encoder', 'down', 'downsample') + _half('decoder', 'up', 'upsample')


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
