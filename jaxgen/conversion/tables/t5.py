"""transformers' ``T5EncoderModel``; checked against it in tests/models/test_t5.py."""

from jaxgen.conversion.engine import Rule
from jaxgen.conversion.family import Family
from jaxgen.conversion.family import Field
from jaxgen.conversion.family import Fixed
from jaxgen.conversion.tables.pieces import heads
from jaxgen.conversion.tables.pieces import linear
from jaxgen.conversion.transforms import HEADS_IN

_BLOCK = 'encoder.block.{i}.layer'
_ATTENTION, _MLP = f'{_BLOCK}.0.SelfAttention', f'{_BLOCK}.1.DenseReluDense'

RULES = (
    Rule('embedding', 'shared.weight'),
    # All blocks share the bias of the first.
    Rule('distance_bias',
         'encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight'),
    *(rule for part in 'qkv' for rule in heads(f'layers/attention/{part}', f'{_ATTENTION}.{part}')),
    *linear('layers/attention/out', f'{_ATTENTION}.o', HEADS_IN),
    Rule('layers/attention_norm/scale', f'{_BLOCK}.0.layer_norm.weight'),
    *linear('layers/mlp/gate', f'{_MLP}.wi_0'),
    *linear('layers/mlp/up', f'{_MLP}.wi_1'),
    *linear('layers/mlp/down', f'{_MLP}.wo'),
    Rule('layers/mlp_norm/scale', f'{_BLOCK}.1.layer_norm.weight'),
    Rule('norm/scale', 'encoder.final_layer_norm.weight'),
)

FAMILY = Family(
    name='t5',
    marker=('model_type', 't5'),
    stem='model',
    rules=RULES,
    # The embedding once more, and the rest of a whole T5.
    extras=r'encoder\.embed_tokens\.weight|decoder\..*|lm_head\.weight',
    fields=(
        Field('vocab', 'vocab_size'),
        Field('width', 'd_model'),
        Field('layers', 'num_layers'),
        Field('heads', 'num_heads'),
        Field('head_channels', 'd_kv'),
        Field('mlp', 'd_ff'),
        Field('buckets', 'relative_attention_num_buckets'),
        Field('max_distance', 'relative_attention_max_distance'),
        Field('norm_eps', 'layer_norm_epsilon'),
        Fixed('feed_forward_proj', 'gated-gelu'),
        Fixed('architectures', ('T5EncoderModel',), also=(('T5ForConditionalGeneration',),
                                                          ('T5Model',))),
    ),
)
