"""transformers' ``CLIPModel``, ``SiglipModel`` and ``Siglip2Model``; checked in
tests/models/test_towers.py.

SigLIP 2 of a fixed resolution is a ``SiglipModel``, its NaFlex variant a ``Siglip2Model``.
"""

import math
from collections.abc import Mapping
from typing import Any

from jaxgen.conversion.engine import Rule
from jaxgen.conversion.engine import Rules
from jaxgen.conversion.family import Family
from jaxgen.conversion.family import Field
from jaxgen.conversion.family import Fixed
from jaxgen.conversion.family import Implied
from jaxgen.conversion.tables.clip_text import BUFFER
from jaxgen.conversion.tables.clip_text import encoder_rules
from jaxgen.conversion.tables.clip_text import text_fields
from jaxgen.conversion.tables.clip_text import text_rules
from jaxgen.conversion.tables.pieces import linear
from jaxgen.conversion.tables.pieces import norm
from jaxgen.conversion.tables.pieces import square_side
from jaxgen.conversion.tables.pieces import vision_fields
from jaxgen.conversion.transforms import HEADS_BIAS
from jaxgen.conversion.transforms import HEADS_IN
from jaxgen.conversion.transforms import HEADS_OUT
from jaxgen.conversion.transforms import PatchKernel
from jaxgen.conversion.transforms import Squeeze
from jaxgen.core.errors import user_error

_IMAGE, _VISION, _HEAD = 'image_tower', 'vision_model', 'vision_model.head'

_PATCHES = f'{_IMAGE}/vision/patch_embed', f'{_VISION}.embeddings.patch_embedding'
_TOWERS: Rules = (
    Rule(f'{_IMAGE}/vision/positions', f'{_VISION}.embeddings.position_embedding.weight'),
    *encoder_rules(f'{_IMAGE}/vision/layers', f'{_VISION}.encoder.layers.{{i}}'),
    *norm(f'{_IMAGE}/norm', f'{_VISION}.post_layernorm'),
    *text_rules('text_tower/', 'text_model.'),
)
_CLIP: Rules = (
    *linear(*_PATCHES, (PatchKernel(),)),
    *_TOWERS,
    Rule(f'{_IMAGE}/vision/cls', f'{_VISION}.embeddings.class_embedding'),
    *norm(f'{_IMAGE}/vision/pre_norm', f'{_VISION}.pre_layrnorm'),
    *linear(f'{_IMAGE}/projection', 'visual_projection'),
    *linear('text_projection', 'text_projection'),
    Rule('logit_scale', 'logit_scale'),
)
_SIGLIP_TOWERS: Rules = (
    *_TOWERS,
    Rule(f'{_IMAGE}/pool/query', f'{_HEAD}.probe', (Squeeze((0, 1)),)),
    *(Rule(f'{_IMAGE}/pool/{part}/kernel', f'{_HEAD}.attention.in_proj_weight', HEADS_OUT,
           joined=True) for part in 'qkv'),
    *(Rule(f'{_IMAGE}/pool/{part}/bias', f'{_HEAD}.attention.in_proj_bias', HEADS_BIAS,
           joined=True) for part in 'qkv'),
    *linear(f'{_IMAGE}/pool/out', f'{_HEAD}.attention.out_proj', HEADS_IN),
    *norm(f'{_IMAGE}/pool/norm', f'{_HEAD}.layernorm'),
    *linear(f'{_IMAGE}/pool/mlp/up', f'{_HEAD}.mlp.fc1'),
    *linear(f'{_IMAGE}/pool/mlp/down', f'{_HEAD}.mlp.fc2'),
    *linear('text_projection', 'text_model.head'),
    Rule('logit_scale', 'logit_scale', (Squeeze((0,)),)),
    Rule('logit_bias', 'logit_bias', (Squeeze((0,)),)),
)


def _grid_side(patches: int, theirs: Mapping[str, Any]) -> int:
  """Side in pixels of the square image that has as many patches as there are positions."""
  rows = math.isqrt(patches)
  if rows**2 != patches:
    raise user_error('config.json: vision_config.num_patches', patches, 'must be a square number')
  return rows * square_side(theirs['vision_config']['patch_size'], theirs)


def _grid_patches(side: int, ours: Mapping[str, Any]) -> int:
  return (side // ours['image']['vision']['patch_size'])**2


_FIELDS = (
    *vision_fields('image.vision.', 'vision_config.'),
    Field('image.vision.mlp', 'vision_config.intermediate_size'),
    Implied('image.vision.qkv_bias', True),
    Implied('image.vision.qk_norm', False),
    Implied('image.vision.layer_scale', 0.0),
    Implied('image.vision.registers', 0),
    Implied('image.vision.resize', 'cubic'),
    Fixed('vision_config.num_channels', 3),
    *text_fields('text.', 'text_config.'),
)
_FIXED_SIZE = (
    Field('image.vision.image_size', 'vision_config.image_size', read=square_side),
    Implied('image.naflex', False),
)
_SIGLIP_FIELDS = (
    *_FIELDS,
    Implied('image.projection', 0),
    Field('projection', 'text_config.projection_size'),
    Implied('image.vision.class_token', False),
    Implied('image.vision.patch_bias', True),
    Implied('image.vision.pre_norm', False),
    Implied('image.pool', 'attention'),
    Implied('text.causal', False),
    Implied('has_bias', True),
    Fixed('vision_config.vision_use_head', True),
)

CLIP = Family(
    name='clip', marker=('model_type', 'clip'), stem='model', rules=_CLIP,
    extras=rf'vision_model\.embeddings\.position_ids|{BUFFER}',
    fields=(
        *_FIELDS,
        *_FIXED_SIZE,
        Field('text.eos_id', 'text_config.eos_token_id'),
        Field('image.projection', 'projection_dim'),
        Field('projection', 'projection_dim'),
        Implied('image.vision.class_token', True),
        Implied('image.vision.patch_bias', False),
        Implied('image.vision.pre_norm', True),
        Implied('image.pool', 'class'),
        Implied('text.causal', True),
        Implied('has_bias', False),
        Fixed('architectures', ('CLIPModel',)),
    ))

SIGLIP = Family(
    name='siglip', marker=('model_type', 'siglip'), stem='model',
    rules=(*linear(*_PATCHES, (PatchKernel(),)), *_SIGLIP_TOWERS),
    extras=r'(vision|text)_model\.embeddings\.position_ids',
    fields=(*_SIGLIP_FIELDS, *_FIXED_SIZE, Fixed('architectures', ('SiglipModel',))))

SIGLIP2 = Family(
    name='siglip2', marker=('model_type', 'siglip2'), stem='model',
    rules=(*linear(*_PATCHES), *_SIGLIP_TOWERS),
    fields=(*_SIGLIP_FIELDS, Implied('image.naflex', True),
            Field('image.vision.image_size', 'vision_config.num_patches', read=_grid_side,
                  write=_grid_patches),
            Fixed('architectures', ('Siglip2Model',))))
