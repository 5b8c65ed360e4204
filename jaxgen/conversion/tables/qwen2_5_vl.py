"""transformers' Qwen2_5_VLForConditionalGeneration, with the names of its published folders.

Checked against the class itself in tests/models/test_qwen2_5_vl.py.
"""

from jaxgen.conversion.engine import Rule
from jaxgen.conversion.family import Family
from jaxgen.conversion.family import Field
from jaxgen.conversion.family import Fixed
from jaxgen.conversion.family import Layout
from jaxgen.conversion.tables.causal_lm import language_fields
from jaxgen.conversion.tables.causal_lm import language_rules
from jaxgen.conversion.tables.causal_lm import qwen2_fields
from jaxgen.conversion.tables.pieces import linear
from jaxgen.conversion.tables.pieces import prefixed
from jaxgen.conversion.transforms import HEADS_BIAS
from jaxgen.conversion.transforms import HEADS_IN
from jaxgen.conversion.transforms import HEADS_OUT
from jaxgen.conversion.transforms import PatchKernel

_HEAD = 'lm_head.weight'
_OURS, _THEIRS = 'vision/layers', 'visual.blocks.{i}'

RULES = (
    Rule('vision/patch_embed/kernel', 'visual.patch_embed.proj.weight', (PatchKernel((3, 2)),)),
    *(rule for part in 'qkv' for rule in (
        Rule(f'{_OURS}/{part}/kernel', f'{_THEIRS}.attn.qkv.weight', HEADS_OUT, joined=True),
        Rule(f'{_OURS}/{part}/bias', f'{_THEIRS}.attn.qkv.bias', HEADS_BIAS, joined=True))),
    *linear(f'{_OURS}/attention_out', f'{_THEIRS}.attn.proj', HEADS_IN),
    Rule(f'{_OURS}/attention_norm/scale', f'{_THEIRS}.norm1.weight'),
    Rule(f'{_OURS}/mlp_norm/scale', f'{_THEIRS}.norm2.weight'),
    *(rule for part in ('gate', 'up', 'down')
      for rule in linear(f'{_OURS}/mlp/{part}', f'{_THEIRS}.mlp.{part}_proj')),
    Rule('vision/norm/scale', 'visual.merger.ln_q.weight'),
    *linear('vision/merger_up', 'visual.merger.mlp.0'),
    *linear('vision/merger_down', 'visual.merger.mlp.2'),
    *language_rules('text/', 'model.', _HEAD),
)


def _vision(ours: str, theirs: str, read=lambda value, _: value) -> Field:
  return Field(f'vision.{ours}', f'vision_config.{theirs}', read=read)


FIELDS = (
    _vision('width', 'hidden_size'),
    _vision('layers', 'depth'),
    _vision('heads', 'num_heads'),
    _vision('mlp', 'intermediate_size'),
    _vision('patch_size', 'patch_size'),
    _vision('frames', 'temporal_patch_size'),
    _vision('merge', 'spatial_merge_size'),
    _vision('window', 'window_size'),
    _vision('full_attention', 'fullatt_block_indexes', read=lambda layers, _: tuple(layers)),
    Field('text.width', 'vision_config.out_hidden_size', read=None),
    Fixed('vision_config.model_type', 'qwen2_5_vl_vision'),
    Fixed('vision_config.hidden_act', 'silu'),
    Fixed('vision_config.in_channels', 3),
    *language_fields('text.', 'text_config.', _HEAD),
    *qwen2_fields('text.'),
    Field('text.rope_sections', 'text_config.rope_parameters.mrope_section',
          read=lambda sections, _: tuple(sections)),
    Fixed('text_config.model_type', 'qwen2_5_vl_text'),
    Fixed('text_config.rope_parameters.rope_type', 'default'),
    Field('image_token_id', 'image_token_id'),
    Field('video_token_id', 'video_token_id'),
    Field('vision_start_id', 'vision_start_token_id'),
    Field('vision_end_id', 'vision_end_token_id'),
    Fixed('architectures', ('Qwen2_5_VLForConditionalGeneration',)),
)

# The modules of the class in memory, by which PEFT names its tensors.
MODULES = prefixed(RULES, ('visual.', 'model.visual.'), ('model.', 'model.language_model.'))

FAMILY = Family(name='qwen2_5_vl', marker=('model_type', 'qwen2_5_vl'), stem='model', rules=RULES,
                fields=FIELDS, others=(Layout('modules', MODULES),))
