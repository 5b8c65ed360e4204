"""transformers' InternVLForConditionalGeneration, with the names of its published folders.

Checked against the class itself in tests/models/test_internvl.py.
"""

from jaxgen.conversion.engine import Rule
from jaxgen.conversion.family import Family
from jaxgen.conversion.family import Field
from jaxgen.conversion.family import Fixed
from jaxgen.conversion.family import Implied
from jaxgen.conversion.family import Layout
from jaxgen.conversion.tables.causal_lm import language_fields
from jaxgen.conversion.tables.causal_lm import language_rules
from jaxgen.conversion.tables.causal_lm import qwen2_fields
from jaxgen.conversion.tables.pieces import prefixed
from jaxgen.conversion.tables.pieces import square_side
from jaxgen.conversion.transforms import HEADS_BIAS
from jaxgen.conversion.transforms import HEADS_IN
from jaxgen.conversion.transforms import HEADS_OUT
from jaxgen.conversion.transforms import LINEAR
from jaxgen.conversion.transforms import PatchKernel
from jaxgen.conversion.transforms import SAME
from jaxgen.conversion.transforms import Squeeze

_VIT = 'vision_tower.embeddings'
_VIT_BLOCK = 'vision_tower.encoder.layer.{i}'
_LM = 'language_model.model'
_HEAD = 'language_model.lm_head.weight'
_PROJECTOR = 'multi_modal_projector'


def _block(ours: str, theirs: str, names: tuple[tuple[str, str, tuple], ...]) -> tuple[Rule, ...]:
  return tuple(Rule(f'{ours}/{our}', f'{theirs}.{their}', how) for our, their, how in names)


RULES = (
    Rule('vision/cls', f'{_VIT}.cls_token', (Squeeze((0, 1)),)),
    Rule('vision/positions', f'{_VIT}.position_embeddings', (Squeeze((0,)),)),
    Rule('vision/patch_embed/kernel', f'{_VIT}.patch_embeddings.projection.weight',
         (PatchKernel(),)),
    Rule('vision/patch_embed/bias', f'{_VIT}.patch_embeddings.projection.bias'),
    *_block('vision/layers', _VIT_BLOCK, (
        ('attention_scale', 'lambda_1', SAME),
        ('mlp_scale', 'lambda_2', SAME),
        ('attention_norm/scale', 'layernorm_before.weight', SAME),
        ('attention_norm/bias', 'layernorm_before.bias', SAME),
        ('mlp_norm/scale', 'layernorm_after.weight', SAME),
        ('mlp_norm/bias', 'layernorm_after.bias', SAME),
        ('attention/q/kernel', 'attention.q_proj.weight', HEADS_OUT),
        ('attention/q/bias', 'attention.q_proj.bias', HEADS_BIAS),
        ('attention/k/kernel', 'attention.k_proj.weight', HEADS_OUT),
        ('attention/k/bias', 'attention.k_proj.bias', HEADS_BIAS),
        ('attention/v/kernel', 'attention.v_proj.weight', HEADS_OUT),
        ('attention/v/bias', 'attention.v_proj.bias', HEADS_BIAS),
        ('attention/q_norm/scale', 'attention.q_norm.weight', SAME),
        ('attention/k_norm/scale', 'attention.k_norm.weight', SAME),
        ('attention/out/kernel', 'attention.projection_layer.weight', HEADS_IN),
        ('attention/out/bias', 'attention.projection_layer.bias', SAME),
        ('mlp/up/kernel', 'mlp.fc1.weight', LINEAR),
        ('mlp/up/bias', 'mlp.fc1.bias', SAME),
        ('mlp/down/kernel', 'mlp.fc2.weight', LINEAR),
        ('mlp/down/bias', 'mlp.fc2.bias', SAME),
    )),
    *_block('projector', _PROJECTOR, (
        ('norm/scale', 'layer_norm.weight', SAME),
        ('norm/bias', 'layer_norm.bias', SAME),
        ('up/kernel', 'linear_1.weight', LINEAR),
        ('up/bias', 'linear_1.bias', SAME),
        ('down/kernel', 'linear_2.weight', LINEAR),
        ('down/bias', 'linear_2.bias', SAME),
    )),
    *language_rules('text/', f'{_LM}.', _HEAD),
)


def _square(value, _):
  return [value, value]


def _image_tokens(downsample, ours):
  vision = ours['vision']
  return round((vision['image_size'] // vision['patch_size'] * downsample)**2)


FIELDS = (
    Field('vision.image_size', 'vision_config.image_size', read=square_side, write=_square),
    Field('vision.patch_size', 'vision_config.patch_size', read=square_side, write=_square),
    Field('vision.width', 'vision_config.hidden_size'),
    Field('vision.layers', 'vision_config.num_hidden_layers'),
    Field('vision.heads', 'vision_config.num_attention_heads'),
    Field('vision.mlp', 'vision_config.intermediate_size'),
    Field('vision.qkv_bias', 'vision_config.attention_bias'),
    Field('vision.qk_norm', 'vision_config.use_qk_norm'),
    Field('vision.norm_eps', 'vision_config.layer_norm_eps'),
    Field('vision.layer_scale', 'vision_config.layer_scale_init_value'),
    Fixed('vision_config.model_type', 'internvl_vision'),
    Fixed('vision_config.norm_type', 'layer_norm'),
    Fixed('vision_config.hidden_act', 'gelu'),
    Fixed('vision_config.use_absolute_position_embeddings', True),
    Fixed('vision_config.use_mask_token', False),
    Fixed('vision_config.use_mean_pooling', True),
    *language_fields('text.', 'text_config.', _HEAD),
    *qwen2_fields('text.'),
    Implied('text.rope_sections', ()),
    Fixed('text_config.model_type', 'qwen2'),
    # 'dynamic' differs from 'default' beyond max_position_embeddings (32768) only.
    Fixed('text_config.rope_parameters.rope_type', 'default', also=('dynamic',)),
    Field('downsample', 'downsample_ratio'),
    Field('downsample', 'image_seq_length', read=None, write=_image_tokens),
    Field('image_token_id', 'image_token_id'),
    Fixed('projector_hidden_act', 'gelu'),
    Fixed('vision_feature_layer', -1),
    Fixed('vision_feature_select_strategy', 'default'),
    Fixed('architectures', ('InternVLForConditionalGeneration',)),
)

# The modules of the class in memory, by which PEFT names its tensors.
MODULES = prefixed(
    RULES, (f'{_LM}.', 'model.language_model.'), (_HEAD, 'lm_head.weight'), ('', 'model.'))

FAMILY = Family(name='internvl', marker=('model_type', 'internvl'), stem='model', rules=RULES,
                fields=FIELDS, others=(Layout('modules', MODULES),))
