"""diffusers' ``SanaTransformer2DModel`` and our SANA denoiser."""

from jaxgen.conversion.engine import Rule
from jaxgen.conversion.engine import Rules
from jaxgen.conversion.family import Family
from jaxgen.conversion.family import Field
from jaxgen.conversion.family import Fixed
from jaxgen.conversion.tables.pieces import attention
from jaxgen.conversion.tables.pieces import linear
from jaxgen.conversion.transforms import LINEAR
from jaxgen.conversion.transforms import Permute
from jaxgen.conversion.transforms import Squeeze
from jaxgen.conversion.transforms import Transform

PIXEL = (Squeeze((2, 3)), *LINEAR)  # a 1 x 1 convolution (O, I, 1, 1) -> (I, O)
DEPTHWISE = (Squeeze((1,)), Permute((1, 2, 0)))  # (O, 1, 3, 3) -> (3, 3, O)


def _halves(ours: tuple[str, str], theirs: str, kernel: tuple[Transform, ...]) -> Rules:
  """Two of our layers that are one of theirs."""
  return tuple(rule for name in ours for rule in (
      Rule(f'{name}/kernel', f'{theirs}.weight', kernel, joined=True),
      Rule(f'{name}/bias', f'{theirs}.bias', joined=True)))


def _blocks() -> Rules:
  ours, theirs = 'blocks', 'transformer_blocks.{i}'
  return (
      Rule(f'{ours}/modulation/table', f'{theirs}.scale_shift_table'),
      *attention(f'{ours}/attention', f'{theirs}.attn1'),
      *attention(f'{ours}/cross_attention', f'{theirs}.attn2'),
      *_halves((f'{ours}/mlp/up', f'{ours}/mlp/gate'), f'{theirs}.ff.conv_inverted', PIXEL),
      *_halves((f'{ours}/mlp/up_mix', f'{ours}/mlp/gate_mix'), f'{theirs}.ff.conv_depth',
               DEPTHWISE),
      *linear(f'{ours}/mlp/down', f'{theirs}.ff.conv_point', PIXEL),
  )


RULES = (
    *linear('image_in', 'patch_embed.proj', PIXEL),
    *linear('text_in', 'caption_projection.linear_1'),
    *linear('text_out', 'caption_projection.linear_2'),
    Rule('text_norm/scale', 'caption_norm.weight'),
    *linear('time/up', 'time_embed.emb.timestep_embedder.linear_1'),
    *linear('time/down', 'time_embed.emb.timestep_embedder.linear_2'),
    *linear('modulation', 'time_embed.linear'),
    *_blocks(),
    Rule('final_modulation/table', 'scale_shift_table'),
    *linear('image_out', 'proj_out'),
)

FAMILY = Family(
    name='sana',
    marker=('_class_name', 'SanaTransformer2DModel'),
    stem='diffusion_pytorch_model',
    rules=RULES,
    fields=(
        Field('in_channels', 'in_channels'),
        Field('in_channels', 'out_channels', read=None),
        Field('cond_dim', 'caption_channels'),
        Field('heads', 'num_attention_heads'),
        Field('width', 'attention_head_dim',
              read=lambda head_dim, theirs: head_dim * theirs['num_attention_heads'],
              write=lambda width, ours: width // ours['heads']),
        Field('cross_heads', 'num_cross_attention_heads'),
        Field('cross_heads', 'cross_attention_head_dim', read=None,
              write=lambda heads, ours: ours['width'] // heads),
        Field('width', 'cross_attention_dim', read=None),
        Field('layers', 'num_layers'),
        Field('mlp_ratio', 'mlp_ratio', default=2.5),
        Fixed('patch_size', 1),
        Fixed('attention_bias', False),
        Fixed('norm_elementwise_affine', False),
        Fixed('norm_eps', 1e-6),
        Fixed('dropout', 0.0),
        Fixed('interpolation_scale', None),
        Fixed('guidance_embeds', False),
        Fixed('qk_norm', None),
        Fixed('timestep_scale', 1.0),
    ),
)
