"""What one sample becomes before it is packed: arrays and images at their final sizes."""

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping

import numpy as np

from jaxgen.data.buckets import Size


@dataclasses.dataclass(frozen=True)
class TokenizedPrompt:
  """The prompt of one sample; n tokens, queries included.

  Attributes:
    tokens: i32[n].
    positions: i32[n, 3].
    loss_mask: f32[n].
    image_index: i32[n], which image token of this sample stands here, -1 for text.
    query_index: i32[n], -1 for no query.
    shown: bool[n].
    state_positions: i32[n, 3].
  """

  tokens: np.ndarray
  positions: np.ndarray
  loss_mask: np.ndarray
  image_index: np.ndarray
  query_index: np.ndarray
  shown: np.ndarray
  state_positions: np.ndarray


@dataclasses.dataclass(frozen=True)
class Patches:
  """Images that the language model sees; p patches, those of an image side by side.

  Image tokens that the vision tower made before stand in their place where a cache gives them.

  Attributes:
    values: f32[p, Dp].
    positions: i32[p, 2].
    images: i32[p], from 1 on.
    maskable: bool[p].
  """

  values: np.ndarray
  positions: np.ndarray
  images: np.ndarray
  maskable: np.ndarray

  @classmethod
  def of(cls, values: np.ndarray, positions: np.ndarray, maskable: bool) -> 'Patches':
    """A single image."""
    return cls(values, positions, np.ones(len(values), np.int32),
               np.full(len(values), maskable))


@dataclasses.dataclass(frozen=True)
class Encodable:
  """An image of which a cache holds what a frozen model makes.

  Attributes:
    key: of the entry.
    size: (height, width) in pixels, as the model gets it.
    read: decodes it: uint8[h, w, 3] for the autoencoder, ``Patches`` for the vision tower. Raises
      a ``DecodeError``.
  """

  key: bytes
  size: Size
  read: Callable[[], 'np.ndarray | Patches']


@dataclasses.dataclass(frozen=True)
class LatentImage:
  """An image of the denoiser.

  Attributes:
    size: (height, width) in pixels.
    positions: i32[h w, 3] of its latent tokens.
    is_target: it is noised and supervised.
    pixels: uint8[H, W, 3]; None for an image to be drawn, and for one whose latents are known.
    latents: f32[h w, C] that were encoded before; None where the pixels are to be encoded.
  """

  size: Size
  positions: np.ndarray
  is_target: bool
  pixels: np.ndarray | None = None
  latents: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class TowerPrompt:
  """The prompt of one text tower.

  Attributes:
    tokens: i32[T]. mask: bool[T]. shown: bool[T]. state_positions: i32[T, 3].
  """

  tokens: np.ndarray
  mask: np.ndarray
  shown: np.ndarray
  state_positions: np.ndarray


@dataclasses.dataclass(frozen=True)
class SampleConditioning:
  """``Conditioning`` of one sample, of n states.

  Attributes:
    states: f[n, D].
    positions: i32[n, 3].
    pooled: f[Dp] or None.
    guidance: f32[] or None.
    pads: bool[n] or None.
  """

  states: np.ndarray
  positions: np.ndarray
  pooled: np.ndarray | None
  guidance: np.ndarray | None
  pads: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Example:
  """A sample that is ready to be packed.

  Attributes:
    id: of the sample.
    source: index of its source in the mixture.
    prompt, patches: of the language model.
    images: in the order of the sequence.
    towers: group -> prompt.
    pads: learned pad tokens of the denoiser behind the images.
    conditioning: in place of prompt, patches and towers, which are empty then.
  """

  id: str
  source: int
  prompt: TokenizedPrompt
  patches: Patches
  images: tuple[LatentImage, ...] = ()
  towers: Mapping[str, TowerPrompt] = dataclasses.field(default_factory=dict)
  pads: int = 0
  conditioning: SampleConditioning | None = None

  @property
  def visual_tokens(self) -> int:
    """Tokens of the denoiser's images, learned pads included."""
    return sum(len(image.positions) for image in self.images) + self.pads
