"""diffusers' ``QwenImageTransformer2DModel`` and our dual-stream MMDiT."""

from jaxgen.conversion.engine import Rule
from jaxgen.conversion.family import Family
from jaxgen.conversion.family import Field
from jaxgen.conversion.family import Fixed
from jaxgen.conversion.family import Implied
from jaxgen.conversion.tables.mmdit_blocks import dual_blocks
from jaxgen.conversion.tables.mmdit_blocks import embedder
from jaxgen.conversion.tables.pieces import linear
from jaxgen.models.denoisers.base import PATCH_AREA

RULES = (
    *linear('image_in', 'img_in'),
    Rule('text_norm/scale', 'txt_norm.weight'),
    *linear('text_in', 'txt_in'),
    *embedder('vectors/time', 'time_text_embed.timestep_embedder'),
    *dual_blocks('blocks', modulation=('img_mod.1', 'txt_mod.1'), mlp=('img_mlp', 'txt_mlp')),
    *linear('final_modulation/linear', 'norm_out.linear'),
    *linear('image_out', 'proj_out'),
)

FAMILY = Family(
    name='qwen_image',
    marker=('_class_name', 'QwenImageTransformer2DModel'),
    stem='diffusion_pytorch_model',
    rules=RULES,
    fields=(
        Field('in_channels', 'in_channels'),
        Field('out_channels', 'out_channels', read=lambda channels, _: channels * PATCH_AREA,
              write=lambda channels, _: channels // PATCH_AREA),
        Field('cond_dim', 'joint_attention_dim'),
        Field('heads', 'num_attention_heads'),
        Field('width', 'attention_head_dim',
              read=lambda head_dim, theirs: head_dim * theirs['num_attention_heads'],
              write=lambda width, ours: width // ours['heads']),
        Field('layers', 'num_layers'),
        Field('axes_dims', 'axes_dims_rope', read=lambda dims, _: tuple(dims),
              default=(16, 56, 56)),
        Field('clean_time', 'zero_cond_t', read=lambda zero, _: 'zero' if zero else 'same',
              write=lambda clean_time, _: clean_time == 'zero', default='same'),
        Implied('pooled_dim', 0),
        Implied('mlp_ratio', 4.0),
        Implied('theta', 10_000.0),
        Implied('position_grid', 0),
        Implied('text_norm', True),
        Implied('qk_norm', True),
        Implied('text_ends', False),
        Fixed('patch_size', 2),
        Fixed('guidance_embeds', False),
        Fixed('use_additional_t_cond', False),
        Fixed('use_layer3d_rope', False, also=(True,)),  # positions are data
    ),
)
