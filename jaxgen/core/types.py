"""The batch contract: what flows from the data pipeline through every system.

Shape legend of the project: ``B`` rows, ``L`` visual tokens, ``S`` prompt tokens, ``P`` vision
patches, ``G`` segments of a row, ``N`` heads, ``H`` head dim, ``D`` model dim, ``F`` MLP dim,
``C`` latent channels (after patchify).

A row packs several samples. ``segments`` numbers them 1..G along the row and marks padding
with 0; everything that belongs to a sample as a whole (timestep, ids, loss weight) is an
array ``[B, G]`` whose entry ``g`` describes segment ``g + 1``.
"""

import dataclasses
from typing import Any

import flax.struct
import jax
import numpy as np

Array = jax.Array | np.ndarray
Params = dict[str, Any]


@flax.struct.dataclass
class Visual:
  """Packed latent tokens of images, noisy targets and clean conditions alike.

  Attributes:
    latents: f[B, L, C], clean patchified latents.
    positions: i32[B, L, 3], integer (t, h, w) of each token; may be negative.
    segments: i32[B, L], sample number within the row, 0 = padding.
    is_target: bool[B, L], True where the token is noised and supervised.
  """

  latents: Array
  positions: Array
  segments: Array
  is_target: Array


@flax.struct.dataclass
class Prompt:
  """Packed tokens that the language model reads, with the vision patches they refer to.

  Attributes:
    tokens: i32[B, S].
    positions: i32[B, S, 3], position of the token within its own segment (three axes for
      multimodal RoPE; models with one axis read the first).
    segments: i32[B, S], 0 = padding.
    loss_mask: f32[B, S], 1 where the token is to be predicted from those before it.
    image_index: i32[B, S], which image token of the row stands here, -1 for text.
    patches: f32[B, P, Dp], flattened pixel patches in [-1, 1] or the tower's own normalisation.
    patch_positions: i32[B, P, 2], (h, w) of each patch within its image.
    patch_segments: i32[B, P], sample that the patch belongs to, 0 = padding.
    patch_is_target: bool[B, P], True where the patch shows the very image to be generated
      (self-conditioning), so that masked image modelling may hide it.
  """

  tokens: Array
  positions: Array
  segments: Array
  loss_mask: Array
  image_index: Array
  patches: Array
  patch_positions: Array
  patch_segments: Array
  patch_is_target: Array


@flax.struct.dataclass
class Meta:
  """Who is in the row.

  Attributes:
    sample_ids: i32[B, G], hash of the sample's id, -1 where the row has fewer segments.
    task_ids: i32[B, G], index into the config's list of data sources, -1 likewise.
  """

  sample_ids: Array
  task_ids: Array


@flax.struct.dataclass
class Batch:
  """One training batch; a pytree of static shapes."""

  visual: Visual
  prompt: Prompt
  meta: Meta


@flax.struct.dataclass
class Conditioning:
  """What the denoiser is told about each segment.

  Attributes:
    states: f[B, S', D], hidden states of the prompt, learned queries included.
    positions: i32[B, S', 3], positions of the states in the denoiser's RoPE.
    segments: i32[B, S'], 0 = padding.
  """

  states: Array
  positions: Array
  segments: Array


@dataclasses.dataclass(frozen=True)
class Layout:
  """What the data pipeline must know of the models, as plain numbers.

  Attributes:
    latent_factor: image pixels along one side of a latent token (autoencoder factor x patch).
    latent_channels: C, channels of a latent token.
    vision_patch: pixels along one side of a vision patch.
    vision_tokens: prompt tokens that one image of ``data.vision_size`` occupies.
  """

  latent_factor: int
  latent_channels: int
  vision_patch: int
  vision_tokens: int
