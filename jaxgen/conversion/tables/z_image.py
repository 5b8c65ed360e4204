"""diffusers' ``ZImageTransformer2DModel`` and our Z-Image denoiser."""

from jaxgen.conversion.engine import Rule
from jaxgen.conversion.engine import Rules
from jaxgen.conversion.family import Family
from jaxgen.conversion.family import Field
from jaxgen.conversion.family import Fixed
from jaxgen.conversion.tables.pieces import attention
from jaxgen.conversion.tables.pieces import linear
from jaxgen.conversion.transforms import LINEAR
from jaxgen.conversion.transforms import Squeeze
from jaxgen.conversion.transforms import TokenOrder
from jaxgen.models.denoisers.base import PATCH_AREA

PATCH = '2-1'  # side of a patch in space and in time, as their module names have it
INPUT = (*LINEAR, TokenOrder(0, PATCH_AREA))  # theirs reads and writes a token pixel by pixel
OUTPUT = (*LINEAR, TokenOrder(1, PATCH_AREA))


def _blocks(ours: str, theirs: str) -> Rules:
  block = f'{theirs}.{{i}}'
  return (
      *linear(f'{ours}/modulation/linear', f'{block}.adaLN_modulation.0'),
      Rule(f'{ours}/attention_norm/scale', f'{block}.attention_norm1.weight'),
      *attention(f'{ours}/attention', f'{block}.attention'),
      Rule(f'{ours}/attention_out_norm/scale', f'{block}.attention_norm2.weight'),
      Rule(f'{ours}/mlp_norm/scale', f'{block}.ffn_norm1.weight'),
      *linear(f'{ours}/mlp/gate', f'{block}.feed_forward.w1'),
      *linear(f'{ours}/mlp/up', f'{block}.feed_forward.w3'),
      *linear(f'{ours}/mlp/down', f'{block}.feed_forward.w2'),
      Rule(f'{ours}/mlp_out_norm/scale', f'{block}.ffn_norm2.weight'),
  )


RULES = (
    *linear('time/up', 't_embedder.mlp.0'),
    *linear('time/down', 't_embedder.mlp.2'),
    *linear('image_in', f'all_x_embedder.{PATCH}', INPUT),
    Rule('image_pad', 'x_pad_token', (Squeeze((0,)),)),
    Rule('text_norm/scale', 'cap_embedder.0.weight'),
    *linear('text_in', 'cap_embedder.1'),
    Rule('text_pad', 'cap_pad_token', (Squeeze((0,)),)),
    *_blocks('image_blocks', 'noise_refiner'),
    *_blocks('text_blocks', 'context_refiner'),
    *_blocks('blocks', 'layers'),
    *linear('final_modulation/linear', f'all_final_layer.{PATCH}.adaLN_modulation.1'),
    *linear('image_out', f'all_final_layer.{PATCH}.linear', OUTPUT,
            (TokenOrder(0, PATCH_AREA),)),
)

FAMILY = Family(
    name='z_image',
    marker=('_class_name', 'ZImageTransformer2DModel'),
    stem='diffusion_pytorch_model',
    rules=RULES,
    fields=(
        Field('in_channels', 'in_channels', read=lambda channels, _: channels * PATCH_AREA,
              write=lambda channels, _: channels // PATCH_AREA),
        Field('cond_dim', 'cap_feat_dim'),
        Field('width', 'dim'),
        Field('heads', 'n_heads'),
        Field('heads', 'n_kv_heads', read=None),
        Field('layers', 'n_layers'),
        Field('refiner_layers', 'n_refiner_layers', default=2),
        Field('axes_dims', 'axes_dims', read=lambda dims, _: tuple(dims)),
        Field('theta', 'rope_theta', default=256.0),
        Fixed('all_patch_size', (2,)),
        Fixed('all_f_patch_size', (1,)),
        Fixed('axes_lens', (1536, 512, 512), also=((1024, 512, 512),)),  # size of their tables
        Fixed('norm_eps', 1e-5),
        Fixed('qk_norm', True),
        Fixed('t_scale', 1000.0),
        Fixed('siglip_feat_dim', None),
    ),
)
