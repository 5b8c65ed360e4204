"""diffusers' ``SD3Transformer2DModel`` and our dual-stream MMDiT."""

import dataclasses

from jaxgen.conversion.engine import Rule
from jaxgen.conversion.engine import Rules
from jaxgen.conversion.family import Family
from jaxgen.conversion.family import Field
from jaxgen.conversion.family import Fixed
from jaxgen.conversion.family import Implied
from jaxgen.conversion.tables.mmdit_blocks import Patches
from jaxgen.conversion.tables.mmdit_blocks import dual_blocks
from jaxgen.conversion.tables.mmdit_blocks import embedder
from jaxgen.conversion.tables.mmdit_blocks import swapped
from jaxgen.conversion.tables.pieces import linear
from jaxgen.conversion.transforms import LINEAR
from jaxgen.conversion.transforms import Split
from jaxgen.conversion.transforms import Squeeze
from jaxgen.conversion.transforms import TokenOrder
from jaxgen.models.denoisers.base import PATCH_AREA

SAMPLE_SIZE = 128  # default of their pipelines, in latent pixels; no weight depends on it


def _last_block() -> Rules:
  """The block behind the stack, whose conditioning has two modulations and no output."""
  theirs, text = 'transformer_blocks.{i}', 'last_block/text_modulation/linear'
  rules = (*(rule for rule in dual_blocks('last_block') if not rule.ours.startswith(text)),
           *swapped(text, f'{theirs}.norm1_context.linear'))
  return tuple(dataclasses.replace(rule, after='blocks/image_modulation/linear/bias')
               for rule in rules)


RULES = (
    *linear('image_in', 'pos_embed.proj', (Patches((2, 2)),)),
    Rule('position_table', 'pos_embed.pos_embed', (Squeeze((0,)), Split(0, 2))),
    *linear('text_in', 'context_embedder'),
    *embedder('vectors/time', 'time_text_embed.timestep_embedder'),
    *embedder('vectors/pooled', 'time_text_embed.text_embedder'),
    *dual_blocks('blocks'),
    *_last_block(),
    *linear('final_modulation/linear', 'norm_out.linear'),
    *linear('image_out', 'proj_out', (*LINEAR, TokenOrder(1, PATCH_AREA)),
            (TokenOrder(0, PATCH_AREA),)),
)

FAMILY = Family(
    name='sd3',
    marker=('_class_name', 'SD3Transformer2DModel'),
    stem='diffusion_pytorch_model',
    rules=RULES,
    fields=(
        Field('in_channels', 'in_channels', read=lambda channels, _: channels * PATCH_AREA,
              write=lambda channels, _: channels // PATCH_AREA),
        Field('out_channels', 'out_channels', read=lambda channels, _: channels * PATCH_AREA,
              write=lambda channels, _: channels // PATCH_AREA),
        Field('cond_dim', 'joint_attention_dim'),
        Field('pooled_dim', 'pooled_projection_dim'),
        Field('heads', 'num_attention_heads'),
        Field('width', 'attention_head_dim',
              read=lambda head_dim, theirs: head_dim * theirs['num_attention_heads'],
              write=lambda width, ours: width // ours['heads']),
        Field('width', 'caption_projection_dim', read=None),
        Field('layers', 'num_layers'),
        Field('position_grid', 'pos_embed_max_size'),
        Field('position_grid', 'sample_size', read=None, write=lambda *_: SAMPLE_SIZE),
        Field('qk_norm', 'qk_norm', read=lambda norm, _: norm == 'rms_norm',
              write=lambda norm, _: 'rms_norm' if norm else None, default=False),
        Implied('mlp_ratio', 4.0),
        Implied('axes_dims', ()),
        Implied('text_norm', False),
        Implied('text_ends', True),
        Implied('clean_time', 'same'),
        Fixed('patch_size', 2),
        Fixed('dual_attention_layers', ()),
    ),
)
