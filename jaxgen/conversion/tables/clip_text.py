"""transformers' ``CLIPTextModel``; checked against it in tests/models/test_text_towers.py."""

import dataclasses

from jaxgen.conversion.engine import Rule
from jaxgen.conversion.engine import Rules
from jaxgen.conversion.family import Family
from jaxgen.conversion.family import Field
from jaxgen.conversion.family import Fixed
from jaxgen.conversion.family import Layout
from jaxgen.conversion.tables.pieces import heads
from jaxgen.conversion.tables.pieces import linear
from jaxgen.conversion.tables.pieces import norm
from jaxgen.conversion.transforms import HEADS_IN

# Not a parameter, but in older files.
BUFFER = r'text_model\.embeddings\.position_ids'


def encoder_rules(ours: str, theirs: str) -> Rules:
  """The blocks of CLIP and SigLIP, which have the same names."""
  return (
      *(rule for part in 'qkv'
        for rule in heads(f'{ours}/attention/{part}', f'{theirs}.self_attn.{part}_proj')),
      *linear(f'{ours}/attention/out', f'{theirs}.self_attn.out_proj', HEADS_IN),
      *norm(f'{ours}/attention_norm', f'{theirs}.layer_norm1'),
      *norm(f'{ours}/mlp_norm', f'{theirs}.layer_norm2'),
      *linear(f'{ours}/mlp/up', f'{theirs}.mlp.fc1'),
      *linear(f'{ours}/mlp/down', f'{theirs}.mlp.fc2'),
  )


def text_rules(ours: str, theirs: str) -> Rules:
  """The text encoder of CLIP or SigLIP; both arguments are what paths begin with."""
  return (
      Rule(f'{ours}embedding', f'{theirs}embeddings.token_embedding.weight'),
      Rule(f'{ours}positions', f'{theirs}embeddings.position_embedding.weight'),
      *encoder_rules(f'{ours}layers', f'{theirs}encoder.layers.{{i}}'),
      *norm(f'{ours}norm', f'{theirs}final_layer_norm'))


def text_fields(ours: str, theirs: str) -> tuple[Field, ...]:
  """Config fields of the text encoder of CLIP or SigLIP; both arguments are prefixes with a dot."""
  return (
      Field(f'{ours}vocab', f'{theirs}vocab_size'),
      Field(f'{ours}width', f'{theirs}hidden_size'),
      Field(f'{ours}layers', f'{theirs}num_hidden_layers'),
      Field(f'{ours}heads', f'{theirs}num_attention_heads'),
      Field(f'{ours}mlp', f'{theirs}intermediate_size'),
      Field(f'{ours}positions', f'{theirs}max_position_embeddings'),
      Field(f'{ours}activation', f'{theirs}hidden_act'),
      Field(f'{ours}norm_eps', f'{theirs}layer_norm_eps'),
  )


FAMILY = Family(
    name='clip_text',
    marker=('model_type', 'clip_text_model'),
    stem='model',
    rules=text_rules('', ''),
    fields=(
        *text_fields('', ''),
        Field('eos_id', 'eos_token_id'),
        Fixed('architectures', ('CLIPTextModel',)),
    ),
    # Folders from before transformers 5.
    others=(Layout('text_model', text_rules('', 'text_model.'), extras=BUFFER),),
)

# The whole CLIP, of which the text encoder is read; HunyuanVideo's own release asks for it. As a
# tower it is in ``clip``.
WHOLE = dataclasses.replace(
    FAMILY, marker=('model_type', 'clip'), rules=text_rules('', 'text_model.'), others=(),
    extras=rf'(vision_model|visual_projection|text_projection)\..*|logit_scale|{BUFFER}',
    fields=(*text_fields('', 'text_config.'), Field('eos_id', 'text_config.eos_token_id')))
