"""Z-Image: text refiner, image refiner, then one stream of both, over packed rows.

Equals diffusers' ``ZImageTransformer2DModel`` (tests/models/test_z_image.py), but for two things
that stop at the door: its time runs from 0 at noise to 1 at data, and it predicts x0 - eps (L142).
Beyond it, a row may pack several samples.

Z-Image was trained with images and captions padded to a multiple of ``MULTIPLE`` tokens by a
learned token that takes part in attention. Here such tokens are data, with a segment and a
position.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.core.errors import user_error
from jaxgen.core.types import Conditioning
from jaxgen.core.types import Visual
from jaxgen.models.denoisers.base import Denoiser
from jaxgen.models.denoisers.base import check_patches
from jaxgen.models.layers.embeddings import VectorEmbedder
from jaxgen.models.layers.embeddings import timestep_embedding
from jaxgen.models.layers.heads import QKV
from jaxgen.models.layers.heads import rotary_attention
from jaxgen.models.layers.linear import Linear
from jaxgen.models.layers.linear import identity
from jaxgen.models.layers.linear import normal
from jaxgen.models.layers.linear import zeros
from jaxgen.models.layers.mlp import GatedMLP
from jaxgen.models.layers.modulation import Modulation
from jaxgen.models.layers.modulation import modulated_norm
from jaxgen.models.layers.norms import RMSNorm
from jaxgen.models.layers.remat import check_scan
from jaxgen.models.layers.remat import stack
from jaxgen.models.layers.rope import angles
from jaxgen.sharding.partition import constrained

MULTIPLE = 32  # that learned pads filled images and captions up to when Z-Image was trained
EPSILON = 1e-5  # of every RMS norm
VECTOR = 256  # channels of a segment's vector, or D where that is less
TIME_HIDDEN = 1024


@dataclasses.dataclass(frozen=True)
class ZImageConfig:
  """Sizes of a Z-Image denoiser; the defaults are Z-Image's of 6 B parameters.

  Attributes:
    in_channels: C, channels of a latent token (after patchify).
    cond_dim: channels of the conditioning states.
    width: D; the MLPs have 8 / 3 of it.
    heads: N; D / N channels each.
    layers: blocks over image and text together.
    refiner_layers: blocks over the image alone, and as many over the text alone.
    axes_dims: head channels that rotate with (t, h, w); they sum to D / N.
    theta: base of the RoPE frequencies.
    remat: what the backward pass recomputes; see ``layers.remat``.
    unroll: blocks per scan iteration; see ``layers.remat``.
  """

  in_channels: int = 64
  cond_dim: int = 2560
  width: int = 3840
  heads: int = 30
  layers: int = 30
  refiner_layers: int = 2
  axes_dims: tuple[int, ...] = (32, 48, 48)
  theta: float = 256.0
  remat: str = 'none'
  unroll: int = 1

  def __post_init__(self):
    where = 'config.model.denoiser'
    if self.width % self.heads:
      raise user_error(f'{where}.heads', self.heads, f'must divide width = {self.width}')
    if (sum(self.axes_dims) != self.head_dim or len(self.axes_dims) != 3
        or any(dim % 2 for dim in self.axes_dims)):
      raise user_error(f'{where}.axes_dims', self.axes_dims,
                       f'must be three even numbers with sum width / heads = {self.head_dim}')
    check_patches(self.in_channels)
    check_scan(f'{where}.', self)

  @property
  def head_dim(self) -> int:
    """H."""
    return self.width // self.heads

  @property
  def hidden(self) -> int:
    """F."""
    return int(self.width / 3 * 8)


class ZImage(Denoiser):
  """A ``Denoiser``; see there.

  A visual token of a segment but of no image is a learned pad, as are the states that
  ``conditioning.pads`` marks. In published weights the states stand at (1, 0, 0), (2, 0, 0), ...,
  their pads included; the image stands behind them at t = padded length of the text + 1, its pads
  at (0, 0, 0).
  """

  config: ZImageConfig

  @nn.compact
  def __call__(self, x_t: jax.Array, t: jax.Array, visual: Visual, conditioning: Conditioning
               ) -> jax.Array:
    """See ``Denoiser``; returns f32[B, L, C], without meaning at pads too."""
    self.check_vectors(conditioning)
    config, dtype, segments = self.config, self.dtype, visual.segments
    vectors = VectorEmbedder(min(config.width, VECTOR), hidden=TIME_HIDDEN, name='time')(
        timestep_embedding(1 - t))  # [B, G, V]
    image = Linear((config.width,), ('latent', 'embed'), dtype=dtype, name='image_in')(x_t)
    image = self._padded('image_pad', image, (segments > 0) & (visual.images == 0))  # [B, L, D]
    states = RMSNorm(EPSILON, 'cond', dtype, name='text_norm')(conditioning.states)
    text = Linear((config.width,), ('cond', 'embed'), dtype=dtype, name='text_in')(states)
    text = self._padded('text_pad', text, conditioning.pads)  # [B, S, D]

    rotations = angles(visual.positions, config.axes_dims, config.theta)  # [B, L, H / 2] twice
    text_rotations = angles(conditioning.positions, config.axes_dims, config.theta)
    image = stack(ZImageBlock, config, dtype, config.refiner_layers, 'image_blocks')(
        image, vectors, *rotations, segments)
    text = stack(ZImageBlock, config, dtype, config.refiner_layers, 'text_blocks')(
        text, None, *text_rotations, conditioning.segments)

    joint, cos, sin, joint_segments = (
        jnp.concatenate(pair, axis=1) for pair in zip(
            (image, *rotations, segments),
            (text, *text_rotations, conditioning.segments)))  # [B, L + S, ...]
    joint = stack(ZImageBlock, config, dtype, config.layers, 'blocks')(
        joint, vectors, cos, sin, joint_segments)
    image = joint[:, :image.shape[1]]

    scale, = Modulation(1, dtype, config.width, name='final_modulation')(vectors, segments)
    to_data = Linear((config.in_channels,), ('embed', 'latent'), kernel_init=zeros, dtype=dtype,
                     name='image_out')(modulated_norm(image, jnp.zeros((), dtype), scale))
    return -to_data.astype(jnp.float32)

  def _padded(self, name: str, x: jax.Array, pads: jax.Array | None) -> jax.Array:
    """``x`` with the learned token at the pads."""
    token = self.param(name, nn.with_logical_partitioning(normal(0.02), ('embed',)),
                       x.shape[-1:], jnp.float32)
    return x if pads is None else jnp.where(pads[..., None], token.astype(x.dtype), x)


class ZImageBlock(nn.Module):
  """Attention and gated MLP, each between two RMS norms; modulated where there are vectors."""

  config: ZImageConfig
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x, vectors, cos, sin, segments):
    """Maps f[B, L, D] to the same, vectors f32[B, G, V] or None; scanned, hence the None."""
    config, dtype = self.config, self.dtype

    def norm(name):
      return RMSNorm(EPSILON, dtype=dtype, name=name)

    if vectors is None:
      scale, gate, mlp_scale, mlp_gate = 0, 1, 0, 1
    else:
      scale, gate, mlp_scale, mlp_gate = Modulation(
          4, dtype, config.width, identity, name='modulation')(vectors, segments)
      gate, mlp_gate = jnp.tanh(gate), jnp.tanh(mlp_gate)

    qkv = QKV(config.heads, config.head_dim, use_bias=False, epsilon=EPSILON, dtype=dtype,
              name='attention')(norm('attention_norm')(x) * (1 + scale))  # [B, L, N, H] each
    attended = Linear((config.width,), ('heads', 'head_dim', 'embed'), inputs=2, use_bias=False,
                      dtype=dtype, name='attention_out')(
                          rotary_attention(*qkv, cos, sin, segments))
    x = x + gate * norm('attention_out_norm')(attended)

    hidden = GatedMLP(config.hidden, dtype=dtype, name='mlp')(
        norm('mlp_norm')(x) * (1 + mlp_scale))
    x = x + mlp_gate * norm('mlp_out_norm')(hidden)
    return constrained(x, ('rows', 'tokens', 'act_embed')), None
