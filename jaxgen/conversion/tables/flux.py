"""diffusers' ``FluxTransformer2DModel``, Black Forest Labs' own names, and our MMDiT.

diffusers' class always has a pooled prompt vector. A model of ours without one is written with an
embedder of one input channel whose weights are all zero: it adds exactly zero to the time
embedding, so the folder loads with ``from_pretrained`` and gives the same velocity. On import
those zeros are checked.
"""

from jaxgen.conversion.engine import Constant
from jaxgen.conversion.engine import Rules
from jaxgen.conversion.family import Family
from jaxgen.conversion.family import Field
from jaxgen.conversion.family import Fixed
from jaxgen.conversion.family import Implied
from jaxgen.conversion.family import Layout
from jaxgen.conversion.family import Release
from jaxgen.conversion.tables.mmdit_blocks import dual_blocks
from jaxgen.conversion.tables.mmdit_blocks import embedder
from jaxgen.conversion.tables.mmdit_blocks import fused_attention
from jaxgen.conversion.tables.mmdit_blocks import fused_single_blocks
from jaxgen.conversion.tables.mmdit_blocks import single_blocks
from jaxgen.conversion.tables.mmdit_blocks import swapped
from jaxgen.conversion.tables.pieces import linear

NO_POOLED = 1  # their pooled_projection_dim where our pooled_dim is 0


def _no_pooled(text: str, up: str, down: str) -> tuple[Constant, ...]:
  unless, width = 'vectors/pooled/up/kernel', ('vectors/time/down/kernel', 1)
  return (Constant(f'{text}.{up}.weight', (width, NO_POOLED), unless),
          Constant(f'{text}.{up}.bias', (width,), unless),
          Constant(f'{text}.{down}.weight', (width, width), unless),
          Constant(f'{text}.{down}.bias', (width,), unless))


RULES = (
    *linear('image_in', 'x_embedder'),
    *linear('text_in', 'context_embedder'),
    *embedder('vectors/time', 'time_text_embed.timestep_embedder'),
    *embedder('vectors/guidance', 'time_text_embed.guidance_embedder'),
    *embedder('vectors/pooled', 'time_text_embed.text_embedder'),
    *_no_pooled('time_text_embed.text_embedder', 'linear_1', 'linear_2'),
    *dual_blocks(),
    *single_blocks(),
    *linear('final_modulation/linear', 'norm_out.linear'),
    *linear('image_out', 'proj_out'),
)


def _original() -> Rules:
  layers, block = ('in_layer', 'out_layer'), 'double_blocks.{i}'
  dual = []
  for ours, theirs in (('image', 'img'), ('text', 'txt')):
    attn = f'{block}.{theirs}_attn'
    dual += [
        *linear(f'double_blocks/{ours}_modulation/linear', f'{block}.{theirs}_mod.lin'),
        *fused_attention(f'double_blocks/{ours}_attention', f'{attn}.qkv',
                         f'{attn}.norm.query_norm.scale', f'{attn}.norm.key_norm.scale',
                         f'{attn}.proj'),
        *embedder(f'double_blocks/{ours}_mlp', f'{block}.{theirs}_mlp', '0', '2'),
    ]
  return (
      *linear('image_in', 'img_in'),
      *linear('text_in', 'txt_in'),
      *embedder('vectors/time', 'time_in', *layers),
      *embedder('vectors/guidance', 'guidance_in', *layers),
      *embedder('vectors/pooled', 'vector_in', *layers),
      *_no_pooled('vector_in', *layers),
      *dual,
      *fused_single_blocks('modulation.lin', 'norm.query_norm.scale', 'norm.key_norm.scale'),
      *swapped('final_modulation/linear', 'final_layer.adaLN_modulation.1'),
      *linear('image_out', 'final_layer.linear'),
  )


ORIGINAL_RULES = _original()


FAMILY = Family(
    name='mmdit',
    marker=('_class_name', 'FluxTransformer2DModel'),
    stem='diffusion_pytorch_model',
    rules=RULES,
    fields=(
        Field('in_channels', 'in_channels'),
        Field('cond_dim', 'joint_attention_dim'),
        Field('heads', 'num_attention_heads'),
        Field('width', 'attention_head_dim',
              read=lambda head_dim, theirs: head_dim * theirs['num_attention_heads'],
              write=lambda width, ours: width // ours['heads']),
        Field('double_blocks', 'num_layers'),
        Field('single_blocks', 'num_single_layers'),
        Field('axes_dims', 'axes_dims_rope', read=lambda dims, _: tuple(dims),
              default=(16, 56, 56)),
        Field('guidance_embed', 'guidance_embeds', default=False),
        Field('pooled_dim', 'pooled_projection_dim',
              read=lambda dim, _: 0 if dim == NO_POOLED else dim,
              write=lambda dim, _: dim or NO_POOLED),
        Implied('mlp_ratio', 4.0),
        Implied('theta', 10_000.0),
        Fixed('patch_size', 1),
        Fixed('out_channels', None),
    ),
    others=(Layout('original', ORIGINAL_RULES, published=(
        Release('FLUX.1-dev', {'pooled_dim': 768, 'guidance_embed': True}),
        Release('FLUX.1-schnell', {'pooled_dim': 768}))),),
)
