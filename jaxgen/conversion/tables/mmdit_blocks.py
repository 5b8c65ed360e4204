"""Rules for the blocks that MMDiTs share: diffusers' names, and the fused ones of releases."""

import dataclasses
import math

import numpy as np

from jaxgen.conversion.engine import Rule
from jaxgen.conversion.engine import Rules
from jaxgen.conversion.tables.pieces import attention
from jaxgen.conversion.tables.pieces import heads
from jaxgen.conversion.tables.pieces import linear
from jaxgen.conversion.transforms import Box
from jaxgen.conversion.transforms import Cut
from jaxgen.conversion.transforms import HEADS_BIAS
from jaxgen.conversion.transforms import HEADS_IN
from jaxgen.conversion.transforms import HEADS_OUT
from jaxgen.conversion.transforms import Transform
from jaxgen.conversion.transforms import whole


@dataclasses.dataclass(frozen=True)
class HeadShares(Transform):
  """Their (D, N H + F) matrix, attention before MLP, as our (N, H + F / N, D).

  The heads' width N H equals D, from which H follows.

  Attributes:
    width: N H, for a part of D; 0 = all of D is there.
  """

  width: int = 0

  def read(self, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    heads, _, width = shape
    parts = np.split(array.T, [self.width or width])
    return np.concatenate([part.reshape(heads, -1, width) for part in parts], axis=1)

  def write(self, array: np.ndarray) -> np.ndarray:
    heads, _, width = array.shape
    parts = np.split(array, [width // heads], axis=1)
    return np.concatenate([part.reshape(-1, width) for part in parts]).T

  def written_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[2], shape[0] * shape[1])

  def cut(self, box: Box, shape: tuple[int, ...]) -> Cut:
    heads, share, width = shape
    return Cut((*whole((heads, share)), box[2]), (box[2], slice(0, heads * share)),
               HeadShares(width))


@dataclasses.dataclass(frozen=True)
class SwapHalves(Transform):
  """The halves of a dimension change places: (shift, scale) against (scale, shift).

  Attributes:
    axis: the dimension, counted from the last (-1).
  """

  axis: int = -1

  def read(self, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.roll(array, array.shape[self.axis] // 2, axis=self.axis)

  def write(self, array: np.ndarray) -> np.ndarray:
    return self.read(array, array.shape)

  def written_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape

  def cut(self, box: Box, shape: tuple[int, ...]) -> Cut:
    kept = list(box)
    kept[self.axis] = slice(0, shape[self.axis])
    return Cut(tuple(kept), tuple(kept), self)


@dataclasses.dataclass(frozen=True)
class Patches(Transform):
  """A convolution over patches (D, c, *sizes) as our matrix (c * product of sizes, D).

  Attributes:
    sizes: of a patch.
  """

  sizes: tuple[int, ...]

  def read(self, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return array.reshape(array.shape[0], -1).T

  def write(self, array: np.ndarray) -> np.ndarray:
    return array.T.reshape(self.written_shape(array.shape))

  def written_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[1], shape[0] // math.prod(self.sizes), *self.sizes)


def swapped(ours: str, theirs: str) -> Rules:
  """A linear whose output channels are (scale, shift) with us and (shift, scale) with them."""
  kernel, bias = linear(ours, theirs)
  return (dataclasses.replace(kernel, transforms=(*kernel.transforms, SwapHalves())),
          dataclasses.replace(bias, transforms=(SwapHalves(),)))


def embedder(ours: str, theirs: str, up: str = 'linear_1', down: str = 'linear_2') -> Rules:
  """A ``VectorEmbedder``; the defaults are diffusers' names of its two linears."""
  return (*linear(f'{ours}/up', f'{theirs}.{up}'), *linear(f'{ours}/down', f'{theirs}.{down}'))


def feed_forward(ours: str, theirs: str) -> Rules:
  """diffusers' ``FeedForward`` without a gate."""
  return embedder(ours, theirs, 'net.0.proj', 'net.2')


def dual_blocks(ours: str = 'double_blocks', theirs: str = 'transformer_blocks.{i}', *,
                modulation: tuple[str, str] = ('norm1.linear', 'norm1_context.linear'),
                mlp: tuple[str, str] = ('ff', 'ff_context')) -> Rules:
  """diffusers' dual-stream blocks; of two names the image stream's stands first."""
  text = dict(q='add_q_proj', k='add_k_proj', v='add_v_proj', q_norm='norm_added_q',
              k_norm='norm_added_k', out='to_add_out')
  return (
      *linear(f'{ours}/image_modulation/linear', f'{theirs}.{modulation[0]}'),
      *linear(f'{ours}/text_modulation/linear', f'{theirs}.{modulation[1]}'),
      *attention(f'{ours}/image_attention', f'{theirs}.attn'),
      *attention(f'{ours}/text_attention', f'{theirs}.attn', **text),
      *feed_forward(f'{ours}/image_mlp', f'{theirs}.{mlp[0]}'),
      *feed_forward(f'{ours}/text_mlp', f'{theirs}.{mlp[1]}'),
  )


def single_blocks() -> Rules:
  """diffusers' single-stream blocks."""
  ours, theirs = 'single_blocks', 'single_transformer_blocks.{i}'
  return (
      *linear(f'{ours}/modulation/linear', f'{theirs}.norm.linear'),
      *attention(f'{ours}/attention', f'{theirs}.attn'),
      *heads(f'{ours}/mlp_up', f'{theirs}.proj_mlp'),
      *linear(f'{ours}/out', f'{theirs}.proj_out', (HeadShares(),)),
  )


def fused_heads(theirs: str, *ours: str) -> Rules:
  """Linears from tokens to heads that stand one below the other in one linear of theirs."""
  return (
      *(Rule(f'{name}/kernel', f'{theirs}.weight', HEADS_OUT, joined=True) for name in ours),
      *(Rule(f'{name}/bias', f'{theirs}.bias', HEADS_BIAS, joined=True) for name in ours))


def fused_attention(ours: str, qkv: str, q_norm: str, k_norm: str, out: str) -> Rules:
  """An attention with one linear for queries, keys and values."""
  return (*fused_heads(qkv, *(f'{ours}/{name}' for name in 'qkv')),
          Rule(f'{ours}/q_norm/scale', q_norm), Rule(f'{ours}/k_norm/scale', k_norm),
          *linear(f'{ours}_out', out, HEADS_IN))


def fused_single_blocks(modulation: str, q_norm: str, k_norm: str) -> Rules:
  """Single-stream blocks of the releases: queries, keys, values and MLP in ``linear1``."""
  ours, theirs = 'single_blocks', 'single_blocks.{i}'
  return (
      *linear(f'{ours}/modulation/linear', f'{theirs}.{modulation}'),
      *fused_heads(f'{theirs}.linear1', *(f'{ours}/attention/{name}' for name in 'qkv'),
                   f'{ours}/mlp_up'),
      Rule(f'{ours}/attention/q_norm/scale', f'{theirs}.{q_norm}'),
      Rule(f'{ours}/attention/k_norm/scale', f'{theirs}.{k_norm}'),
      *linear(f'{ours}/out', f'{theirs}.linear2', (HeadShares(),)),
  )
