"""The two-dimensional KL autoencoder of FLUX and SD3: 8 x 8 pixels to one latent pixel.

Equals diffusers' ``AutoencoderKL`` without quantisation convolutions
(tests/models/test_kl.py). Arrays are channels-last.
"""

import dataclasses
import functools

import jax

from jaxgen.core.errors import user_error
from jaxgen.models.autoencoders.base import GaussianAutoencoder
from jaxgen.models.autoencoders.blocks import Decoder
from jaxgen.models.autoencoders.blocks import Encoder
from jaxgen.models.autoencoders.blocks import Parts
from jaxgen.models.autoencoders.blocks import PixelAttention
from jaxgen.models.autoencoders.tiling import Tiling
from jaxgen.models.layers.convolution import Conv
from jaxgen.models.layers.norms import GroupNorm


@dataclasses.dataclass(frozen=True)
class KLConfig:
  """Sizes of the autoencoder; the defaults are FLUX.1's.

  Attributes:
    channels: c, channels of a latent pixel.
    block_channels: channels at each resolution, finest first; each but the last halves it.
    layers_per_block: residual blocks of a resolution in the encoder; the decoder has one more.
    norm_groups: groups of every group norm.
    scaling: latents are ``(mean - shift) * scaling``.
    shift: see ``scaling``.
    tiling: how large images are cut.
  """

  channels: int = 16
  block_channels: tuple[int, ...] = (128, 256, 512, 512)
  layers_per_block: int = 2
  norm_groups: int = 32
  scaling: float = 0.3611
  shift: float = 0.1159
  tiling: Tiling = Tiling()

  def __post_init__(self):
    where = 'config.model.autoencoder'
    check_channels(self.block_channels, self.norm_groups)
    if not self.scaling:
      raise user_error(f'{where}.scaling', self.scaling, 'must not be 0')
    self.tiling.check(f'{where}.tiling', self.factor)

  @property
  def factor(self) -> int:
    """Image pixels along one side of a latent pixel."""
    return 2 ** (len(self.block_channels) - 1)

  @property
  def temporal_factor(self) -> int:
    """Frames of a latent frame: images only."""
    return 1


class KLAutoencoder(GaussianAutoencoder):
  """Images f32[n, H, W, 3] in [-1, 1] to latents f32[n, H / factor, W / factor, c] and back.

  What is decoded is not clipped to [-1, 1].
  """

  config: KLConfig

  def setup(self):
    """Makes encoder and decoder of this family's parts."""
    config = self.config
    conv = functools.partial(Conv, dtype=self.dtype)
    norm = functools.partial(GroupNorm, config.norm_groups, dtype=self.dtype)
    parts = Parts(
        conv, norm, functools.partial(PixelAttention, norm, dtype=self.dtype),
        resample=lambda _, channels, name: Upsample(channels, dtype=self.dtype, name=name),
        dtype=self.dtype)
    # Padding on the far side only, as the original has it.
    down = dataclasses.replace(parts, resample=lambda _, channels, name: conv(
        channels, strides=(2, 2), padding=((0, 1), (0, 1)), name=name))
    self.encoder = Encoder(down, config.block_channels, config.layers_per_block,
                           2 * config.channels)
    self.decoder = Decoder(parts, config.block_channels, config.layers_per_block + 1)

  def encode_tile(self, images: jax.Array) -> jax.Array:
    """Pixels to moments."""
    return self.encoder(images)

  def decode_tile(self, latents: jax.Array) -> jax.Array:
    """Latents of the network to pixels."""
    return self.decoder(latents)


class Upsample(Conv):
  """Repeats every pixel twice in both directions, then convolves."""

  def __call__(self, x: jax.Array) -> jax.Array:
    return super().__call__(x.repeat(2, axis=1).repeat(2, axis=2))


def check_channels(block_channels: tuple[int, ...], norm_groups: int) -> None:
  """Refuses channels that the groups of a group norm do not share out."""
  if not block_channels or any(channels % norm_groups for channels in block_channels):
    raise user_error('config.model.autoencoder.block_channels', block_channels,
                     f'must be multiples of norm_groups = {norm_groups}')
