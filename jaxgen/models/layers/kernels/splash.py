"""Splash attention on TPU: blocks that never leave the chip, for any segments and positions.

The kernels are those of jax.experimental.pallas.ops.tpu.splash_attention. They know segment
numbers, and causality by the index of a key. Positions here are data, so keys are sorted by
position first; then the keys that a query may see are the first so many of its row.
"""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import BlockSizes
from jax.experimental.pallas.ops.tpu.splash_attention import SegmentIds
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask_info import MaskInfo

from jaxgen.models.layers.kernels.contract import Arrays
from jaxgen.models.layers.kernels.contract import Kernel
from jaxgen.models.layers.kernels.contract import Visibility

LANES = 128  # columns of a register: head dimensions and blocks are multiples of it
LARGEST_BLOCK = 512


def fits(q: jax.Array, k: jax.Array) -> bool:
  """Rows shorter than a block would be padding for the most part: decoding, short prompts."""
  return min(q.shape[2], k.shape[2]) >= LANES


def forward(q: jax.Array, k: jax.Array, v: jax.Array, visibility: Visibility, *,
            interpret: bool = False) -> Arrays:
  """``Kernel.forward``; ``interpret`` runs the kernel as plain operations, on any platform."""
  (q_block, kv_block), (order, _), last, segments = _plan(q, k, visibility)

  def row(q, k, v, segments, last):
    out, (logsumexp,) = splash._splash_attention_forward(
        _mask_info(last), q, k, v, segments, save_residuals=True,
        block_sizes=_block_sizes(q_block, kv_block), interpret=interpret, **_options(last),
        sinks=None)
    return out, logsumexp

  out, logsumexp = jax.vmap(row)(
      _pad(q, q_block), *(_pad(_take(x, order), kv_block) for x in (k, v)), segments, last)
  out, logsumexp = out[:, :, :q.shape[2], :q.shape[3]], logsumexp[:, :, :q.shape[2]]
  sees = visibility.sees()
  if sees is not None:
    out = jnp.where(sees[:, None, :, None], out, 0)
  return out, logsumexp


def backward(q: jax.Array, k: jax.Array, v: jax.Array, visibility: Visibility, out: jax.Array,
             logsumexp: jax.Array, gradient: jax.Array, *, interpret: bool = False) -> Arrays:
  """``Kernel.backward``."""
  (q_block, kv_block), (order, places), last, segments = _plan(q, k, visibility)
  sees = visibility.sees()
  if sees is not None:
    # The kernel lets a query that sees nothing look at everything: what comes back ends here.
    gradient = jnp.where(sees[:, None, :, None], gradient, 0)

  def row(q, k, v, segments, last, out, logsumexp, gradient):
    info = _mask_info(last)
    residuals = q, k, v, segments, None, out, logsumexp, info, info
    options = _options(last)
    *_, by_q, by_k, by_v, _, _ = splash._splash_attention_bwd(
        False, block_sizes=_block_sizes(q_block, kv_block), interpret=interpret, **options,
        res=residuals, do=gradient)
    return by_q, by_k, by_v

  by_q, by_k, by_v = jax.vmap(row)(
      _pad(q, q_block), *(_pad(_take(x, order), kv_block) for x in (k, v)), segments, last,
      _pad(out, q_block), _pad_length(logsumexp, q_block),
      _pad(gradient.astype(q.dtype), q_block))
  by_k, by_v = (_take(x[:, :, :k.shape[2], :k.shape[3]], places) for x in (by_k, by_v))
  return by_q[:, :, :q.shape[2], :q.shape[3]], by_k, by_v


KERNEL = Kernel(fits, forward, backward)


def block_of(length: int) -> int:
  """The block that pads ``length`` least, the largest of those."""
  return min(range(LANES, LARGEST_BLOCK + 1, LANES),
             key=lambda block: (-(-length // block) * block, -block))


def _plan(q, k, visibility):
  """Blocks of queries and keys, the order of the keys, the last key that a query sees, segments.

  The order (``_sorted``) and the last key i32[B, L'] are None without positions, the segments
  are None where every token counts; L' is L padded to whole blocks.
  """
  blocks = block_of(q.shape[2]), block_of(k.shape[2])
  q_segments, kv_segments, q_positions, kv_positions = visibility
  order, last = (None, None), None
  if q_segments is None and (q.shape[2] % blocks[0] or k.shape[2] % blocks[1]):
    q_segments, kv_segments = (
        jnp.ones((x.shape[0], x.shape[2]), jnp.int32) for x in (q, k))
  if q_positions is not None:
    order = _sorted(kv_positions)
    seen = kv_positions[:, None, :] <= q_positions[:, :, None]
    last = _pad_length(seen.sum(axis=-1, dtype=jnp.int32) - 1, blocks[0])
    if kv_segments is not None:
      kv_segments = jnp.take_along_axis(kv_segments, order[0], axis=-1)
  segments = None
  if q_segments is not None:
    segments = SegmentIds(
        _pad_length(q_segments, blocks[0]), _pad_length(kv_segments, blocks[1]))
  return blocks, order, last, segments


def _sorted(positions):
  """i32[B, S] twice: the key at each place of the row sorted by position, the place of each key.

  Counting what comes before a key costs little beside attention, and compiles much faster than
  a sort does on TPU.
  """
  rows, keys = (jax.lax.broadcasted_iota(jnp.int32, positions.shape, axis) for axis in (0, 1))
  one, other = positions[:, :, None], positions[:, None, :]
  first = (other < one) | ((other == one) & (keys[:, None, :] < keys[:, :, None]))
  places = first.sum(axis=-1, dtype=jnp.int32)
  return jnp.zeros_like(places).at[rows, places].set(keys, unique_indices=True), places


def _mask_info(last):
  """No blocks are left out: which are empty is known at run time only."""
  return MaskInfo(None, None, None, None, q_sequence=last)


def _options(last):
  return dict(
      mask_value=splash.DEFAULT_MASK_VALUE, is_mqa=False, residual_checkpoint_name=None,
      mask_function=None if last is None else _not_after, attn_logits_soft_cap=None)


def _not_after(last, key):
  return key <= last


def _block_sizes(q_block, kv_block):
  return BlockSizes(
      block_q=q_block, block_kv=kv_block, block_q_dkv=q_block, block_kv_dkv=kv_block,
      block_q_dq=q_block, block_kv_dq=kv_block)


def _take(x, order):
  """Reorders the keys of f[B, K, S, H] by i32[B, S]; None leaves them."""
  return x if order is None else jnp.take_along_axis(x, order[:, None, :, None], axis=2)


def _pad(x, block):
  """f[B, N, L, H] with whole blocks of tokens and whole registers of channels."""
  return jnp.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % block), (0, -x.shape[3] % LANES)))


def _pad_length(x, block):
  """[..., L] with whole blocks of tokens."""
  return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % block)])
