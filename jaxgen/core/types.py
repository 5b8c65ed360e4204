"""The batch contract: the arrays that the data pipeline hands to every system.

Shape letters of the project: ``B`` rows, ``L`` visual tokens, ``S`` prompt tokens, ``P`` vision
patches, ``G`` segments per row, ``T`` tokens of a text tower, ``N`` heads, ``H`` head dim,
``D`` model dim, ``F`` MLP dim, ``C`` latent channels (after patchify).

A row packs several samples. ``segments`` numbers them 1..G along the row and marks padding
with 0. Per-sample values (timestep, ids, loss weight) are arrays ``[B, G]`` whose entry ``g``
describes segment ``g + 1``.

The data pipeline decides everything that depends on the sample: positions, which hidden states the
denoiser sees, which tokens are noised. Models and systems only read it.
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
  """Packed latent tokens of target images and of clean condition images.

  Attributes:
    latents: f[B, L, C], clean patchified latents.
    positions: i32[B, L, 3], integer (t, h, w) of each token; may be negative.
    segments: i32[B, L], sample number within the row, 0 = padding.
    images: i32[B, L], image number within the row, starting at 1; 0 = padding, or a sample's token
      that belongs to no image (Z-Image's learned pads).
    is_target: bool[B, L], True where the token is noised and supervised.
  """

  latents: Array
  positions: Array
  segments: Array
  images: Array
  is_target: Array

  @property
  def is_clean(self) -> Array:
    """bool[B, L], True for tokens of condition images."""
    return (self.images > 0) & ~self.is_target


@flax.struct.dataclass
class Prompt:
  """Packed tokens that the language model reads, with the vision patches they refer to.

  Attributes:
    tokens: i32[B, S].
    positions: i32[B, S, 3], position of the token within its own segment (three axes for
      multimodal RoPE; models with one axis read the first).
    segments: i32[B, S], sample number within the row, 0 = padding.
    loss_mask: f32[B, S], next-token loss weight of this token as a label, 0 = not supervised.
    image_index: i32[B, S], index of the row's image token at this place, -1 for text.
    query_index: i32[B, S], index of the learned query at this place, -1 for none. Queries follow
      the prompt of their sample.
    shown: bool[B, S], True where the denoiser sees the token's hidden state.
    state_positions: i32[B, S, 3], positions of those states in the denoiser's RoPE.
    patches: f32[B, P, Dp], flattened pixel patches, normalised as the vision tower expects. The
      patches of an image are contiguous.
    patch_positions: i32[B, P, 2], (h, w) of each patch within its image.
    patch_images: i32[B, P], image number within the row, starting at 1; 0 = padding.
    maskable: bool[B, P], True where the patch belongs to an image that is also the target
      (self-conditioning), so masked image modelling may mask it.
    encoded: image tokens f32[B, T, D], which the vision tower made before, stand in place of the
      patches, one for those under it; they have no positions. The same for the whole batch.
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
  encoded: bool = flax.struct.field(pytree_node=False, default=False)


@flax.struct.dataclass
class Tower:
  """Prompts of a text tower that encodes one sample at a time (Llama, CLIP, T5, Qwen3).

  Attributes:
    tokens: i32[B, G, T].
    mask: bool[B, G, T], attention mask, False for padding.
    shown: bool[B, G, T], True where the denoiser sees the hidden state (a template may be cropped),
      or a learned pad token in place of one: behind the text, where ``mask`` is False.
    state_positions: i32[B, G, T, 3], positions of those states in the denoiser's RoPE.
  """

  tokens: Array
  mask: Array
  shown: Array
  state_positions: Array


@flax.struct.dataclass
class Meta:
  """Identity of the samples in each row.

  Attributes:
    sample_ids: i32[B, G], hash of the sample's id, -1 for unused segments.
    source_ids: i32[B, G], index into the sorted names of the data sources, -1 for unused segments.
    rows: i32[B], row number within the global batch. Noise is keyed by it, so it does not depend
      on how the batch is divided over devices, hosts and accumulation steps.
  """

  sample_ids: Array
  source_ids: Array
  rows: Array


@flax.struct.dataclass
class Batch:
  """One training batch, or one batch of requests: a pytree with static shapes.

  Attributes:
    visual, prompt, meta: see ``Visual``, ``Prompt`` and ``Meta``.
    towers: parameter group of a text tower -> its prompts.
    conditioning: of the denoiser, where it was computed before; prompt and towers are empty then.
  """

  visual: Visual
  prompt: Prompt
  meta: Meta
  towers: dict[str, Tower] = flax.struct.field(default_factory=dict)
  conditioning: 'Conditioning | None' = None


@flax.struct.dataclass
class Conditioning:
  """Conditioning inputs of the denoiser.

  Attributes:
    states: f[B, S', D], hidden states of the prompt, learned queries included.
    positions: i32[B, S', 3], positions of the states in the denoiser's RoPE.
    segments: i32[B, S'], sample number within the row; 0 = padding or a hidden state that the
      denoiser does not see.
    pooled: f[B, G, Dp], pooled text embedding of each segment; None if the denoiser has no such
      input.
    guidance: f32[B, G], guidance scale, an input of distilled denoisers; None for the others.
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
  """Geometry of the denoiser's latent tokens.

  Attributes:
    factor: image pixels along one side of a latent token (autoencoder factor x patch).
    channels: C, channels of a latent token.
    multiple: learned pad tokens fill the latent tokens of a sample up to a multiple of it.
  """

  factor: int
  channels: int
  multiple: int = 1


@dataclasses.dataclass(frozen=True)
class Vision:
  """Geometry of the language model's vision input.

  Attributes:
    kind: ``square`` resizes and crops every image to one square (InternVL); ``native`` keeps the
      aspect ratio of every image (Qwen2.5-VL).
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
  """Prompt format of a text tower.

  Attributes:
    dialect: name of the prompt template.
    length: T, not counting the leading template tokens that are cropped.
    multiple: learned pad tokens fill the states of a prompt up to a multiple of it; divides T.
  """

  dialect: str
  length: int
  multiple: int = 1


@dataclasses.dataclass(frozen=True)
class Layout:
  """The model properties that the data pipeline needs.

  Attributes:
    latent: geometry of the denoiser's latent tokens.
    vision: geometry of the language model's vision input; None if it takes no images.
    queries: Q, learned queries appended to every prompt that asks for an image.
    scheme: position scheme of the denoiser, a key of ``positions.SCHEMES``.
    dialect: prompt template of the language model, a key of ``dialects.DIALECTS``; '' without one.
    vocab: tokens that the language model knows; 0 = any.
    towers: parameter group of a text tower -> its prompt format.
  """

  latent: Latent
  vision: Vision | None = None
  queries: int = 0
  scheme: str = 'flux'
  dialect: str = 'plain'
  vocab: int = 0
  towers: Mapping[str, Text] = FrozenDict()
