"""diffusers' ``FluxTransformer2DModel`` and our MMDiT.

Their class always has a pooled prompt vector. A model of ours without one is written with an
embedder of one input channel whose weights are all zero: it adds exactly zero to the time
embedding, so the folder loads with ``from_pretrained`` and gives the same velocity. On import
those zeros are checked.
"""

import dataclasses

import numpy as np

from jaxgen.conversion.engine import Constant
from jaxgen.conversion.engine import Rule
from jaxgen.conversion.family import Family
from jaxgen.conversion.family import Field
from jaxgen.conversion.family import Fixed
from jaxgen.conversion.transforms import HEADS_BIAS
from jaxgen.conversion.transforms import HEADS_IN
from jaxgen.conversion.transforms import HEADS_OUT
from jaxgen.conversion.transforms import LINEAR
from jaxgen.core.errors import user_error

NO_POOLED = 1  # their pooled_projection_dim where our pooled_dim is 0


@dataclasses.dataclass(frozen=True)
class HeadShares:
  """Their (D, N H + F) matrix, attention before MLP, as our (N, H + F / N, D).

  The heads' width N H equals D, from which H follows.
  """

  def read(self, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    heads, _, width = shape
    parts = np.split(array.T, [width])
    return np.concatenate([part.reshape(heads, -1, width) for part in parts], axis=1)

  def write(self, array: np.ndarray) -> np.ndarray:
    heads, _, width = array.shape
    parts = np.split(array, [width // heads], axis=1)
    return np.concatenate([part.reshape(-1, width) for part in parts]).T

  def written_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[2], shape[0] * shape[1])


def _linear(ours: str, theirs: str, kernel=LINEAR, bias=()) -> tuple[Rule, ...]:
  return (Rule(f'{ours}/kernel', f'{theirs}.weight', kernel),
          Rule(f'{ours}/bias', f'{theirs}.bias', bias))


def _heads(ours: str, theirs: str) -> tuple[Rule, ...]:
  return _linear(ours, theirs, HEADS_OUT, HEADS_BIAS)


def _embedder(ours: str, theirs: str) -> tuple[Rule, ...]:
  return (*_linear(f'vectors/{ours}/up', f'time_text_embed.{theirs}.linear_1'),
          *_linear(f'vectors/{ours}/down', f'time_text_embed.{theirs}.linear_2'))


def _no_pooled() -> tuple[Constant, ...]:
  text, unless = 'time_text_embed.text_embedder', 'vectors/pooled/up/kernel'
  width = ('vectors/time/down/kernel', 1)
  return (Constant(f'{text}.linear_1.weight', (width, NO_POOLED), unless),
          Constant(f'{text}.linear_1.bias', (width,), unless),
          Constant(f'{text}.linear_2.weight', (width, width), unless),
          Constant(f'{text}.linear_2.bias', (width,), unless))


def _double(stream: str, norm: str, q: str, k: str, v: str, q_norm: str, k_norm: str, out: str,
            mlp: str) -> tuple[Rule, ...]:
  ours, theirs = f'double_blocks/{stream}', 'transformer_blocks.{i}'
  return (
      *_linear(f'{ours}_modulation/linear', f'{theirs}.{norm}.linear'),
      *_heads(f'{ours}_attention/q', f'{theirs}.attn.{q}'),
      *_heads(f'{ours}_attention/k', f'{theirs}.attn.{k}'),
      *_heads(f'{ours}_attention/v', f'{theirs}.attn.{v}'),
      Rule(f'{ours}_attention/q_norm/scale', f'{theirs}.attn.{q_norm}.weight'),
      Rule(f'{ours}_attention/k_norm/scale', f'{theirs}.attn.{k_norm}.weight'),
      *_linear(f'{ours}_attention_out', f'{theirs}.attn.{out}', HEADS_IN),
      *_linear(f'{ours}_mlp/up', f'{theirs}.{mlp}.net.0.proj'),
      *_linear(f'{ours}_mlp/down', f'{theirs}.{mlp}.net.2'),
  )


def _single() -> tuple[Rule, ...]:
  ours, theirs = 'single_blocks', 'single_transformer_blocks.{i}'
  return (
      *_linear(f'{ours}/modulation/linear', f'{theirs}.norm.linear'),
      *_heads(f'{ours}/attention/q', f'{theirs}.attn.to_q'),
      *_heads(f'{ours}/attention/k', f'{theirs}.attn.to_k'),
      *_heads(f'{ours}/attention/v', f'{theirs}.attn.to_v'),
      Rule(f'{ours}/attention/q_norm/scale', f'{theirs}.attn.norm_q.weight'),
      Rule(f'{ours}/attention/k_norm/scale', f'{theirs}.attn.norm_k.weight'),
      *_heads(f'{ours}/mlp_up', f'{theirs}.proj_mlp'),
      *_linear(f'{ours}/out', f'{theirs}.proj_out', (HeadShares(),)),
  )


RULES = (
    *_linear('image_in', 'x_embedder'),
    *_linear('text_in', 'context_embedder'),
    *_embedder('time', 'timestep_embedder'),
    *_embedder('guidance', 'guidance_embedder'),
    *_embedder('pooled', 'text_embedder'),
    *_no_pooled(),
    *_double('image', 'norm1', 'to_q', 'to_k', 'to_v', 'norm_q', 'norm_k', 'to_out.0', 'ff'),
    *_double('text', 'norm1_context', 'add_q_proj', 'add_k_proj', 'add_v_proj', 'norm_added_q',
             'norm_added_k', 'to_add_out', 'ff_context'),
    *_single(),
    *_linear('final_modulation/linear', 'norm_out.linear'),
    *_linear('image_out', 'proj_out'),
)


def _write_head_dim(width: int, ours) -> int:
  for field, only in (('mlp_ratio', 4.0), ('theta', 10_000.0)):
    if ours[field] != only:
      raise user_error(f'config.model.denoiser.{field}', ours[field],
                       f'FluxTransformer2DModel knows {only} only; this model has no export')
  return width // ours['heads']


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
              write=_write_head_dim),
        Field('double_blocks', 'num_layers'),
        Field('single_blocks', 'num_single_layers'),
        Field('axes_dims', 'axes_dims_rope', read=lambda dims, _: tuple(dims),
              default=(16, 56, 56)),
        Field('guidance_embed', 'guidance_embeds', default=False),
        Field('pooled_dim', 'pooled_projection_dim',
              read=lambda dim, _: 0 if dim == NO_POOLED else dim,
              write=lambda dim, _: dim or NO_POOLED),
        Fixed('patch_size', 1),
        Fixed('out_channels', None),
    ),
)
