"""The batch contract: what flows from the data pipeline through every system.

Shape legend of the project: ``B`` rows, ``L`` visual tokens, ``S`` prompt tokens, ``P`` vision
patches, ``G`` segments of a row, ``T`` tokens of a text tower, ``N`` heads, ``H`` head dim,
``D`` model dim, ``F`` MLP dim, ``C`` latent channels (after patchify).

A row packs several samples. ``segments`` numbers them 1..G along the row and marks padding
with 0; everything that belongs to a sample as a whole (timestep, ids, loss weight) is an
array ``[B, G]`` whose entry ``g`` describes segment ``g + 1``.

Everything that a system needs to know of a sample is decided by the data pipeline: positions,
which states the denoiser is shown, which tokens are noised. No model and no system computes it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import numpy as np
from flax.core import FrozenDict

Array = jax.Array | np.ndarray
Params = dict[str, Any]


@flax.struct.dataclass
class Visual:
  """Packed latent tokens of images, noisy targets and clean conditions alike.

  Attributes:
    latents: f[B, L, C], clean patchified latents.
    positions: i32[B, L, 3], integer (t, h, w) of each token; may be negative.
    segments: i32[B, L], sample number within the row, 0 = padding.
    images: i32[B, L], number of the image within the row from 1 on, 0 = padding, or a token of
      a sample that belongs to no image (Z-Image's learned pads).
    is_target: bool[B, L], True where the token is noised and supervised.
  """

  latents: Array
  positions: Array
  segments: Array
  images: Array
  is_target: Array

  @property
  def is_clean(self) -> Array:
    """bool[B, L], True for the tokens of conditions."""
    return (self.images > 0) & ~self.is_target


@flax.struct.dataclass
class Prompt:
  """Packed tokens that the language model reads, with the vision patches they refer to.

  Attributes:
    tokens: i32[B, S].
    positions: i32[B, S, 3], position of the token within its own segment (three axes for
      multimodal RoPE; models with one axis read the first).
    segments: i32[B, S], 0 = padding.
    loss_mask: f32[B, S], weight of the token's prediction from those before it, 0 = none.
    image_index: i32[B, S], which image token of the row stands here, -1 for text.
    query_index: i32[B, S], which learned query stands here, -1 for none. Queries follow the
      prompt of their sample.
    shown: bool[B, S], which states the denoiser is told.
    state_positions: i32[B, S, 3], where those states stand in the denoiser's RoPE.
    patches: f32[B, P, Dp], flattened pixel patches in the vision tower's own normalisation. The
      patches of an image lie side by side.
    patch_positions: i32[B, P, 2], (h, w) of each patch within its image.
    patch_images: i32[B, P], number of the image within the row from 1 on, 0 = padding.
    maskable: bool[B, P], True where the patch shows the very image to be generated
      (self-conditioning), so that masked image modelling may hide it.
  """

  tokens: Array
  positions: Array
  segments: Array
  loss_mask: Array
  image_index: Array
  query_index: Array
  shown: Array
  state_positions: Array
  patches: Array
  patch_positions: Array
  patch_images: Array
  maskable: Array


@flax.struct.dataclass
class Tower:
  """Prompts of a text tower that reads one sample at a time (Llama, CLIP, T5, Qwen3).

  Attributes:
    tokens: i32[B, G, T].
    mask: bool[B, G, T], False where the tower does not look.
    shown: bool[B, G, T], which states the denoiser is told (a template may be cropped).
    state_positions: i32[B, G, T, 3], where they stand in the denoiser's RoPE.
  """

  tokens: Array
  mask: Array
  shown: Array
  state_positions: Array


@flax.struct.dataclass
class Meta:
  """Who is in the row.

  Attributes:
    sample_ids: i32[B, G], hash of the sample's id, -1 where the row has fewer segments.
    source_ids: i32[B, G], index into the sorted names of the config's data sources, -1 likewise.
    rows: i32[B], number of the row within the global batch: noise is keyed by it, so that it
      does not depend on how the batch is divided over devices, hosts and accumulation steps.
  """

  sample_ids: Array
  source_ids: Array
  rows: Array


@flax.struct.dataclass
class Batch:
  """One training batch, or one batch of requests; a pytree of static shapes.

  Attributes:
    visual, prompt, meta: see there.
    towers: group of parameters -> its prompts.
  """

  visual: Visual
  prompt: Prompt
  meta: Meta
  towers: dict[str, Tower] = flax.struct.field(default_factory=dict)


@flax.struct.dataclass
class Conditioning:
  """What the denoiser is told about each segment.

  Attributes:
    states: f[B, S', D], hidden states of the prompt, learned queries included.
    positions: i32[B, S', 3], positions of the states in the denoiser's RoPE.
    segments: i32[B, S'], 0 = padding, or a state that the denoiser is not shown.
    pooled: f[B, G, Dp], one vector for each segment; None for denoisers that take none.
    guidance: f32[B, G], guidance scale that distilled denoisers are told; None likewise.
    pads: bool[B, S'], True where a learned pad token replaces the state; None = nowhere.
  """

  states: Array
  positions: Array
  segments: Array
  pooled: Array | None = None
  guidance: Array | None = None
  pads: Array | None = None


@dataclasses.dataclass(frozen=True)
class Latent:
  """Latent tokens as plain numbers.

  Attributes:
    factor: image pixels along one side of a latent token (autoencoder factor x patch).
    channels: C, channels of a latent token.
  """

  factor: int
  channels: int


@dataclasses.dataclass(frozen=True)
class Vision:
  """How a language model sees images, as plain numbers.

  Attributes:
    kind: ``square``: every image is resized and cropped to one square, as InternVL has it.
      ``native``: every image keeps its shape, as Qwen2.5-VL has it.
    patch: pixels along one side of a vision patch.
    merge: patches along one side of an image token.
    size: side of the square in pixels; 0 for ``native``.
  """

  kind: str
  patch: int
  merge: int
  size: int = 0

  @property
  def factor(self) -> int:
    """Pixels along one side of an image token."""
    return self.patch * self.merge


@dataclasses.dataclass(frozen=True)
class Text:
  """What a text tower reads, as plain numbers.

  Attributes:
    dialect: name of the template around every prompt.
    length: T without the leading tokens that the template crops.
  """

  dialect: str
  length: int


@dataclasses.dataclass(frozen=True)
class Layout:
  """What the data pipeline must know of the models.

  Attributes:
    latent: of the denoiser.
    vision: of the language model; None where it sees no image.
    queries: Q, learned queries behind every prompt that asks for an image.
    scheme: position scheme of the denoiser, a key of ``positions.SCHEMES``.
    dialect: of the language model's prompts, a key of ``templates.DIALECTS``; '' without one.
    towers: group -> what that text tower reads.
  """

  latent: Latent
  vision: Vision | None = None
  queries: int = 0
  scheme: str = 'flux'
  dialect: str = 'plain'
  towers: Mapping[str, Text] = FrozenDict()
