"""The causal language model within transformers' classes: names that several tables share."""

from jaxgen.conversion.engine import Rule
from jaxgen.conversion.family import Absent
from jaxgen.conversion.family import Family
from jaxgen.conversion.family import Field
from jaxgen.conversion.family import Fixed
from jaxgen.conversion.family import Implied
from jaxgen.conversion.family import Layout
from jaxgen.conversion.family import Supported
from jaxgen.conversion.transforms import HEADS_BIAS
from jaxgen.conversion.transforms import HEADS_IN
from jaxgen.conversion.transforms import HEADS_OUT
from jaxgen.conversion.transforms import LINEAR
from jaxgen.conversion.transforms import SAME

_BLOCK = (
    ('attention_norm/scale', 'input_layernorm.weight', SAME),
    ('mlp_norm/scale', 'post_attention_layernorm.weight', SAME),
    ('attention/q/kernel', 'self_attn.q_proj.weight', HEADS_OUT),
    ('attention/q/bias', 'self_attn.q_proj.bias', HEADS_BIAS),
    ('attention/k/kernel', 'self_attn.k_proj.weight', HEADS_OUT),
    ('attention/k/bias', 'self_attn.k_proj.bias', HEADS_BIAS),
    ('attention/v/kernel', 'self_attn.v_proj.weight', HEADS_OUT),
    ('attention/v/bias', 'self_attn.v_proj.bias', HEADS_BIAS),
    ('attention/q_norm/scale', 'self_attn.q_norm.weight', SAME),
    ('attention/k_norm/scale', 'self_attn.k_norm.weight', SAME),
    ('attention/out/kernel', 'self_attn.o_proj.weight', HEADS_IN),
    ('mlp/gate/kernel', 'mlp.gate_proj.weight', LINEAR),
    ('mlp/up/kernel', 'mlp.up_proj.weight', LINEAR),
    ('mlp/down/kernel', 'mlp.down_proj.weight', LINEAR),
)


def language_rules(ours: str, theirs: str, head: str) -> tuple[Rule, ...]:
  """Rules of the parameters under ``ours`` (ends with '/' or is empty).

  Args:
    ours: path of the ``CausalLM`` in our tree.
    theirs: prefix of the decoder in theirs, likewise with its dot.
    head: name of their output head.
  """
  return (
      Rule(f'{ours}embedding', f'{theirs}embed_tokens.weight'),
      *(Rule(f'{ours}decoder/layers/{our}', f'{theirs}layers.{{i}}.{their}', how)
        for our, their, how in _BLOCK),
      Rule(f'{ours}decoder/norm/scale', f'{theirs}norm.weight'),
      Rule(f'{ours}head', head, LINEAR),
  )


def language_fields(ours: str, theirs: str, head: str) -> tuple[Field | Absent | Fixed, ...]:
  """Config fields that every such language model has.

  Args:
    ours: prefix of our section, with its dot.
    theirs: prefix of their section, likewise.
    head: tensor whose absence means tied embeddings.
  """
  ties = dict.fromkeys((f'{theirs}tie_word_embeddings', 'tie_word_embeddings'))
  return (
      Field(f'{ours}vocab', f'{theirs}vocab_size'),
      Field(f'{ours}width', f'{theirs}hidden_size'),
      Field(f'{ours}layers', f'{theirs}num_hidden_layers'),
      Field(f'{ours}heads', f'{theirs}num_attention_heads'),
      Field(f'{ours}kv_heads', f'{theirs}num_key_value_heads'),
      Field(f'{ours}mlp', f'{theirs}intermediate_size'),
      Field(f'{ours}rope_theta', f'{theirs}rope_parameters.rope_theta'),
      Field(f'{ours}norm_eps', f'{theirs}rms_norm_eps'),
      Field(f'{ours}embedding_std', f'{theirs}initializer_range'),
      Absent(f'{ours}tie_embeddings', head, tuple(ties)),
      Fixed(f'{theirs}hidden_act', 'silu'),
      Supported(f'{theirs}layer_types', lambda kinds: set(kinds) <= {'full_attention'},
                'full attention in every layer'),
  )


def qwen2_fields(ours: str) -> tuple[Implied, ...]:
  """What Qwen2's classes leave no choice about."""
  return (Implied(f'{ours}qkv_bias', True), Implied(f'{ours}qk_norm', False),
          Implied(f'{ours}head_channels', 0), Implied(f'{ours}rope_scaling.factor', 1.0))


def tower(name: str, kind: str, *fields: Field | Fixed | Supported | Implied, qk_norm: bool
          ) -> Family:
  """The family of a text tower that is nothing but the language model.

  Args:
    name: of the family, and their ``model_type``.
    kind: name of their class.
    *fields: config fields beyond the common ones.
    qk_norm: whether their class has norms of queries and keys.
  """
  return Family(
      name=name, marker=('model_type', name), stem='model',
      rules=language_rules('', '', 'lm_head.weight'),
      fields=(
          *language_fields('', '', 'lm_head.weight'),
          Field('head_channels', 'head_dim', read=_read_head_dim, write=_write_head_dim),
          Implied('qkv_bias', False),
          Implied('qk_norm', qk_norm),
          Implied('rope_sections', ()),
          Fixed('attention_bias', False),
          *fields,
          # Towers are often published with their output head, under the names of causal_lm.
          Fixed('architectures', (kind,), also=((kind.replace('Model', 'ForCausalLM'),),))),
      others=(Layout('causal_lm', language_rules('', 'model.', 'lm_head.weight')),))


def _read_head_dim(value, theirs):
  return 0 if value * theirs['num_attention_heads'] == theirs['hidden_size'] else value


def _write_head_dim(value, ours):
  return value or ours['width'] // ours['heads']
