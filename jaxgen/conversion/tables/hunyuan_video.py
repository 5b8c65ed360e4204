"""diffusers' ``HunyuanVideoTransformer3DModel``, Tencent's own names, and our HunyuanVideo.

Tencent's names are also those of models fine-tuned from its code. There the weights lie in a
safetensors file or under ``module`` in ``mp_rank_00_model_states.pt``.
"""

from collections.abc import Mapping
from typing import Any

from jaxgen.conversion.engine import Rule
from jaxgen.conversion.engine import Rules
from jaxgen.conversion.family import Family
from jaxgen.conversion.family import Field
from jaxgen.conversion.family import Fixed
from jaxgen.conversion.family import Layout
from jaxgen.conversion.family import Release
from jaxgen.conversion.tables.mmdit_blocks import Patches
from jaxgen.conversion.tables.mmdit_blocks import dual_blocks
from jaxgen.conversion.tables.mmdit_blocks import embedder
from jaxgen.conversion.tables.mmdit_blocks import feed_forward
from jaxgen.conversion.tables.mmdit_blocks import fused_attention
from jaxgen.conversion.tables.mmdit_blocks import fused_heads
from jaxgen.conversion.tables.mmdit_blocks import fused_single_blocks
from jaxgen.conversion.tables.mmdit_blocks import single_blocks
from jaxgen.conversion.tables.mmdit_blocks import swapped
from jaxgen.conversion.tables.pieces import attention
from jaxgen.conversion.tables.pieces import linear
from jaxgen.conversion.transforms import HEADS_IN
from jaxgen.models.denoisers.base import PATCH_AREA

PATCH = (1, 2, 2)  # frames, height and width of a token, in latent pixels
CLEAN_TIMES = {'token_replace': 'zero', 'latent_concat': 'same'}  # theirs -> ours


def _diffusers() -> Rules:
  theirs, refiner = 'context_embedder', 'context_embedder.token_refiner.refiner_blocks.{i}'
  return (
      *linear('image_in', 'x_embedder.proj', (Patches(PATCH),)),
      *embedder('vectors/time', 'time_text_embed.timestep_embedder'),
      *embedder('vectors/guidance', 'time_text_embed.guidance_embedder'),
      *embedder('vectors/pooled', 'time_text_embed.text_embedder'),
      *linear('refiner/text_in', f'{theirs}.proj_in'),
      *embedder('refiner/vectors/time', f'{theirs}.time_text_embed.timestep_embedder'),
      *embedder('refiner/vectors/pooled', f'{theirs}.time_text_embed.text_embedder'),
      *_refiner_norms(refiner, 'norm_out.linear'),
      *attention('refiner/blocks/attention', f'{refiner}.attn'),
      *feed_forward('refiner/blocks/mlp', f'{refiner}.ff'),
      *dual_blocks(),
      *single_blocks(),
      *linear('final_modulation/linear', 'norm_out.linear'),
      *linear('image_out', 'proj_out'),
  )


def _original() -> Rules:
  theirs, refiner = 'txt_in', 'txt_in.individual_token_refiner.blocks.{i}'
  return (
      *linear('image_in', 'img_in.proj', (Patches(PATCH),)),
      *embedder('vectors/time', 'time_in', 'mlp.0', 'mlp.2'),
      *embedder('vectors/guidance', 'guidance_in', 'mlp.0', 'mlp.2'),
      *embedder('vectors/pooled', 'vector_in', 'in_layer', 'out_layer'),
      *linear('refiner/text_in', f'{theirs}.input_embedder'),
      *embedder('refiner/vectors/time', f'{theirs}.t_embedder', 'mlp.0', 'mlp.2'),
      *embedder('refiner/vectors/pooled', f'{theirs}.c_embedder'),
      *_refiner_norms(refiner, 'adaLN_modulation.1'),
      *fused_heads(f'{refiner}.self_attn_qkv',
                   *(f'refiner/blocks/attention/{name}' for name in 'qkv')),
      *linear('refiner/blocks/attention_out', f'{refiner}.self_attn_proj', HEADS_IN),
      *embedder('refiner/blocks/mlp', f'{refiner}.mlp', 'fc1', 'fc2'),
      *_original_dual('image', 'img'),
      *_original_dual('text', 'txt'),
      *fused_single_blocks('modulation.linear', 'q_norm.weight', 'k_norm.weight'),
      *swapped('final_modulation/linear', 'final_layer.adaLN_modulation.1'),
      *linear('image_out', 'final_layer.linear'),
  )


def _refiner_norms(theirs: str, modulation: str) -> Rules:
  ours = 'refiner/blocks'
  norms = (('attention_norm', 'norm1'), ('mlp_norm', 'norm2'))
  return (*linear(f'{ours}/modulation/linear', f'{theirs}.{modulation}'),
          *(Rule(f'{ours}/{name}/scale', f'{theirs}.{norm}.weight') for name, norm in norms),
          *(Rule(f'{ours}/{name}/bias', f'{theirs}.{norm}.bias') for name, norm in norms))


def _original_dual(stream: str, name: str) -> Rules:
  ours, theirs = f'double_blocks/{stream}', f'double_blocks.{{i}}.{name}'
  return (
      *linear(f'{ours}_modulation/linear', f'{theirs}_mod.linear'),
      *fused_attention(f'{ours}_attention', f'{theirs}_attn_qkv', f'{theirs}_attn_q_norm.weight',
                       f'{theirs}_attn_k_norm.weight', f'{theirs}_attn_proj'),
      *embedder(f'{ours}_mlp', f'{theirs}_mlp', 'fc1', 'fc2'))


RULES = _diffusers()
ORIGINAL_RULES = _original()


def _write_condition(clean_time: str, ours: Mapping[str, Any]) -> str | None:
  if clean_time == 'zero':
    return 'token_replace'
  return 'latent_concat' if ours['in_channels'] != ours['out_channels'] else None


FAMILY = Family(
    name='hunyuan_video',
    marker=('_class_name', 'HunyuanVideoTransformer3DModel'),
    stem='diffusion_pytorch_model',
    rules=RULES,
    fields=(
        Field('in_channels', 'in_channels', read=lambda channels, _: channels * PATCH_AREA,
              write=lambda channels, _: channels // PATCH_AREA),
        Field('out_channels', 'out_channels', read=lambda channels, _: channels * PATCH_AREA,
              write=lambda channels, _: channels // PATCH_AREA),
        Field('cond_dim', 'text_embed_dim'),
        Field('pooled_dim', 'pooled_projection_dim'),
        Field('heads', 'num_attention_heads'),
        Field('width', 'attention_head_dim',
              read=lambda head_dim, theirs: head_dim * theirs['num_attention_heads'],
              write=lambda width, ours: width // ours['heads']),
        Field('double_blocks', 'num_layers'),
        Field('single_blocks', 'num_single_layers'),
        Field('refiner_blocks', 'num_refiner_layers', default=2),
        Field('mlp_ratio', 'mlp_ratio', default=4.0),
        Field('axes_dims', 'rope_axes_dim', read=lambda dims, _: tuple(dims),
              default=(16, 56, 56)),
        Field('theta', 'rope_theta', read=lambda theta, _: float(theta), default=256.0),
        Field('guidance_embed', 'guidance_embeds', default=True),
        Field('clean_time', 'image_condition_type',
              read=lambda kind, _: CLEAN_TIMES.get(kind, kind), write=_write_condition,
              default='same'),
        Fixed('patch_size', 2),
        Fixed('patch_size_t', 1),
        Fixed('qk_norm', 'rms_norm'),
    ),
    others=(Layout('original', ORIGINAL_RULES, published=(
        # The same sizes as text to video, which has no clean frames that it could matter to.
        # iMontage's are often kept below those of I2V, or above them.
        Release('iMontage', path='imontage(?!.*[it]2v)'),
        Release('HunyuanVideo-I2V', {'clean_time': 'zero'}, path='i2v'),
        Release('HunyuanVideo'),
        Release('HunyuanVideo without distilled guidance', {'guidance_embed': False}),
        Release('HunyuanVideo-I2V with latent_concat',
                {'in_channels': 33 * PATCH_AREA, 'guidance_embed': False}))),),
)
