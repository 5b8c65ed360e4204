"""diffusers' ``CosmosTransformer3DModel``, NVIDIA's own names, and our Cosmos denoiser.

The two layouts hold the same arrays under other names. NVIDIA's checkpoints hold buffers and
counters besides.
"""

from collections.abc import Mapping
from typing import Any

from jaxgen.conversion.engine import Rule
from jaxgen.conversion.engine import Rules
from jaxgen.conversion.family import Family
from jaxgen.conversion.family import Field
from jaxgen.conversion.family import Fixed
from jaxgen.conversion.family import Implied
from jaxgen.conversion.family import Layout
from jaxgen.conversion.family import Release
from jaxgen.conversion.tables.pieces import attention
from jaxgen.conversion.tables.pieces import linear
from jaxgen.conversion.transforms import LINEAR
from jaxgen.conversion.transforms import TokenOrder
from jaxgen.models.denoisers.base import PATCH_AREA

OUTPUT = (*LINEAR, TokenOrder(1, PATCH_AREA))  # theirs predicts a token pixel by pixel

# Tensors of NVIDIA's checkpoints that are no parameters.
EXTRAS = r'net\.(pos_embedder\.(seq|dim_(spatial|temporal)_range)|accum_\w+|.*\._extra_state)'


def _diffusers() -> Rules:
  block = 'transformer_blocks.{i}'
  return (
      *_outside('patch_embed.proj', 'crossattn_proj.0', 'time_embed.t_embedder',
                'time_embed.norm', 'proj_out'),
      *_modulation('final', 'norm_out.linear_1', 'norm_out.linear_2'),
      *(rule for number, name in enumerate(('attention', 'cross_attention', 'mlp'), 1)
        for rule in _modulation(f'blocks/{name}', f'{block}.norm{number}.linear_1',
                                f'{block}.norm{number}.linear_2')),
      *attention('blocks/attention', f'{block}.attn1'),
      *attention('blocks/cross_attention', f'{block}.attn2'),
      *linear('blocks/mlp/up', f'{block}.ff.net.0.proj'),
      *linear('blocks/mlp/down', f'{block}.ff.net.2'),
  )


def _original() -> Rules:
  block = 'net.blocks.{i}'
  names = {'q': 'q_proj', 'k': 'k_proj', 'v': 'v_proj', 'q_norm': 'q_norm', 'k_norm': 'k_norm',
           'out': 'output_proj'}
  branches = (('attention', 'self_attn'), ('cross_attention', 'cross_attn'), ('mlp', 'mlp'))
  return (
      *_outside('net.x_embedder.proj.1', 'net.crossattn_proj.0', 'net.t_embedder.1',
                'net.t_embedding_norm', 'net.final_layer.linear'),
      *_modulation('final', 'net.final_layer.adaln_modulation.1',
                   'net.final_layer.adaln_modulation.2'),
      *(rule for ours, theirs in branches
        for rule in _modulation(f'blocks/{ours}', f'{block}.adaln_modulation_{theirs}.1',
                                f'{block}.adaln_modulation_{theirs}.2')),
      *attention('blocks/attention', f'{block}.self_attn', **names),
      *attention('blocks/cross_attention', f'{block}.cross_attn', **names),
      *linear('blocks/mlp/up', f'{block}.mlp.layer1'),
      *linear('blocks/mlp/down', f'{block}.mlp.layer2'),
  )


def _outside(image_in: str, projector: str, time: str, time_norm: str, image_out: str) -> Rules:
  """What stands before and behind the blocks."""
  return (
      *linear('image_in', image_in),
      *linear('projector', projector),
      *linear('time/up', f'{time}.linear_1'),
      *linear('time/down', f'{time}.linear_2'),
      Rule('time/norm/scale', f'{time_norm}.weight'),
      *linear('image_out', image_out, OUTPUT),
  )


def _modulation(ours: str, down: str, up: str) -> Rules:
  return (*linear(f'{ours}_modulation/down', down), *linear(f'{ours}_modulation/up', up))


RULES = _diffusers()
ORIGINAL_RULES = _original()


def _read_cond_dim(text_dim: int, theirs: Mapping[str, Any]) -> int:
  projected = theirs.get('use_crossattn_projection', False)
  return theirs['crossattn_proj_in_channels'] if projected else text_dim


FAMILY = Family(
    name='cosmos',
    marker=('_class_name', 'CosmosTransformer3DModel'),
    stem='diffusion_pytorch_model',
    rules=RULES,
    fields=(
        Field('in_channels', 'out_channels', read=lambda channels, _: channels * PATCH_AREA,
              write=lambda channels, _: channels // PATCH_AREA),
        Field('condition_mask', 'in_channels',
              read=lambda channels, theirs: channels > theirs['out_channels'],
              write=lambda mask, ours: ours['in_channels'] // PATCH_AREA + int(mask)),
        Field('padding_mask', 'concat_padding_mask', default=True),
        Field('text_dim', 'text_embed_dim'),
        Field('text_dim', 'encoder_hidden_states_channels', read=None),
        Field('cond_dim', 'text_embed_dim', read=_read_cond_dim,
              write=lambda _, ours: ours['text_dim']),
        Field('cond_dim', 'crossattn_proj_in_channels', read=None),
        Field('cond_projection', 'use_crossattn_projection', default=False),
        Field('heads', 'num_attention_heads'),
        Field('width', 'attention_head_dim',
              read=lambda head_dim, theirs: head_dim * theirs['num_attention_heads'],
              write=lambda width, ours: width // ours['heads']),
        Field('layers', 'num_layers'),
        Field('mlp_ratio', 'mlp_ratio', default=4.0),
        Field('modulation_rank', 'adaln_lora_dim', default=256),
        Field('rope_scale', 'rope_scale', read=lambda scale, _: tuple(map(float, scale))),
        Implied('qk_epsilon', 1e-5),
        Fixed('patch_size', (1, 2, 2)),
        Fixed('extra_pos_embed_type', None),
        Fixed('controlnet_block_every_n', None),
        Fixed('img_context_dim_in', None),
    ),
    # NVIDIA's code has another epsilon than diffusers' class.
    others=(Layout('original', ORIGINAL_RULES, extras=EXTRAS,
                   published=(Release('Cosmos-Predict2.5 2B'),),
                   implied=(Implied('qk_epsilon', 1e-6),)),),
)
