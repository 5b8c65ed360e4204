"""transformers' ``ViTModel``, which DINO is, ``Dinov2Model`` and ``Dinov2WithRegistersModel``;
checked in tests/models/test_towers.py.

A pooler on the class token and the mask token of pretraining are left out: neither is read here.
"""

import dataclasses

from jaxgen.conversion.engine import Rule
from jaxgen.conversion.engine import Rules
from jaxgen.conversion.family import Family
from jaxgen.conversion.family import Field
from jaxgen.conversion.family import Fixed
from jaxgen.conversion.family import Implied
from jaxgen.conversion.family import Layout
from jaxgen.conversion.tables.pieces import heads
from jaxgen.conversion.tables.pieces import linear
from jaxgen.conversion.tables.pieces import norm
from jaxgen.conversion.tables.pieces import square_side
from jaxgen.conversion.tables.pieces import vision_fields
from jaxgen.conversion.transforms import HEADS_IN
from jaxgen.conversion.transforms import PatchKernel
from jaxgen.conversion.transforms import Squeeze
from jaxgen.core.errors import user_error

_BLOCKS = 'vision/layers'
_FILE_ATTENTION = ('attention.attention.query', 'attention.attention.key',
                   'attention.attention.value', 'attention.output.dense')
_MODULE_ATTENTION = ('attention.q_proj', 'attention.k_proj', 'attention.v_proj',
                     'attention.o_proj')
_EXTRAS = r'pooler\.dense\.(weight|bias)|embeddings\.mask_token'


def _rules(block: str, attention: tuple[str, ...], norms: tuple[str, str],
           mlp: tuple[str, str]) -> Rules:
  """The whole model; ``attention`` are the names of q, k, v and out within a block."""
  return (
      Rule('vision/cls', 'embeddings.cls_token', (Squeeze((0, 1)),)),
      Rule('vision/positions', 'embeddings.position_embeddings', (Squeeze((0,)),)),
      Rule('vision/registers', 'embeddings.register_tokens', (Squeeze((0,)),)),
      *linear('vision/patch_embed', 'embeddings.patch_embeddings.projection', (PatchKernel(),)),
      *(rule for part, name in zip('qkv', attention)
        for rule in heads(f'{_BLOCKS}/attention/{part}', f'{block}.{name}')),
      *linear(f'{_BLOCKS}/attention/out', f'{block}.{attention[3]}', HEADS_IN),
      *norm(f'{_BLOCKS}/attention_norm', f'{block}.{norms[0]}'),
      *norm(f'{_BLOCKS}/mlp_norm', f'{block}.{norms[1]}'),
      Rule(f'{_BLOCKS}/attention_scale', f'{block}.layer_scale1.lambda1'),
      Rule(f'{_BLOCKS}/mlp_scale', f'{block}.layer_scale2.lambda1'),
      *linear(f'{_BLOCKS}/mlp/up', f'{block}.{mlp[0]}'),
      *linear(f'{_BLOCKS}/mlp/down', f'{block}.{mlp[1]}'),
      *norm('norm', 'layernorm'),
  )


def _mlp(ratio, theirs):
  return theirs['hidden_size'] * ratio


def _mlp_ratio(mlp, ours):
  ratio, rest = divmod(mlp, ours['vision']['width'])
  if rest:
    raise user_error('vision.mlp', mlp, 'must be a multiple of the width in a Dinov2Model')
  return ratio


_FIELDS = (
    Field('vision.image_size', 'image_size', read=square_side),
    *vision_fields('vision.', ''),
    Field('vision.qkv_bias', 'qkv_bias'),
    Implied('vision.qk_norm', False),
    Implied('vision.class_token', True),
    Implied('vision.patch_bias', True),
    Implied('vision.pre_norm', False),
    Implied('pool', 'class'),
    Implied('projection', 0),
    Implied('naflex', False),
    Fixed('num_channels', 3),
)
_NO_REGISTERS = (Implied('vision.registers', 0), Implied('vision.resize', 'cubic'))
_FIELDS_2 = (
    *_FIELDS,
    Field('vision.mlp', 'mlp_ratio', read=_mlp, write=_mlp_ratio),
    Field('vision.layer_scale', 'layerscale_value'),
    Fixed('use_swiglu_ffn', False),
)
_NORMS, _MLP = ('layernorm_before', 'layernorm_after'), ('intermediate.dense', 'output.dense')
_NORMS_2, _MLP_2 = ('norm1', 'norm2'), ('mlp.fc1', 'mlp.fc2')

# ``modules`` are the names of the class in memory.
DINO = Family(
    name='dino', marker=('model_type', 'vit'), stem='model', extras=_EXTRAS,
    rules=_rules('encoder.layer.{i}', _FILE_ATTENTION, _NORMS, _MLP),
    fields=(*_FIELDS, *_NO_REGISTERS, Field('vision.mlp', 'intermediate_size'),
            Implied('vision.layer_scale', 0.0)),
    others=(Layout('modules', _rules('layers.{i}', _MODULE_ATTENTION, _NORMS, _MLP_2),
                   extras=_EXTRAS),))

DINOV2 = Family(
    name='dinov2', marker=('model_type', 'dinov2'), stem='model', extras=_EXTRAS,
    rules=_rules('encoder.layer.{i}', _FILE_ATTENTION, _NORMS_2, _MLP_2),
    fields=(*_FIELDS_2, *_NO_REGISTERS, Fixed('use_mask_token', False, also=(True,))),
    others=(Layout('modules', _rules('encoder.layer.{i}', _MODULE_ATTENTION, _NORMS_2, _MLP_2),
                   extras=_EXTRAS),))

# With registers the class antialiases positions that it interpolates, without them it does not.
DINOV2_REGISTERS = dataclasses.replace(
    DINOV2, name='dinov2_registers', marker=('model_type', 'dinov2_with_registers'),
    fields=(*_FIELDS_2, Field('vision.registers', 'num_register_tokens'),
            Implied('vision.resize', 'antialiased_cubic')))
