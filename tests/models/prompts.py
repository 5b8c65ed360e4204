"""What the tests of multimodal language models share: prompts, and greedy text without a cache."""

import functools

import jax
import numpy as np

from jaxgen.core.types import Prompt


def prompt_of(tokens, positions, patches=None, *, segments=None, image_index=None,
              patch_positions=None, patch_images=None, patch_dim=0) -> Prompt:
  """A ``Prompt`` without queries; what is left out is as in one sample of text and one image.

  Args:
    tokens: i[B, S].
    positions: i[B, S] or i[B, S, 3].
    patches: f[B, P, Dp]; none of ``patch_dim`` where left out.
    segments, image_index, patch_positions, patch_images: as in ``Prompt``.
    patch_dim: Dp without patches.
  """
  tokens, positions = np.asarray(tokens, np.int32), np.asarray(positions, np.int32)
  if positions.ndim == 2:
    positions = np.repeat(positions[..., None], 3, axis=-1)
  if patches is None:
    patches = np.zeros((len(tokens), 0, patch_dim), np.float32)
  count = patches.shape[:2]

  def given(leaf, shape, value):
    return np.full(shape, value, np.int32) if leaf is None else np.asarray(leaf, np.int32)

  return Prompt(
      tokens=tokens, positions=positions, segments=given(segments, tokens.shape, 1),
      loss_mask=np.zeros(tokens.shape, np.float32),
      image_index=given(image_index, tokens.shape, -1),
      query_index=np.full(tokens.shape, -1, np.int32), shown=np.ones(tokens.shape, bool),
      state_positions=positions, patches=patches,
      patch_positions=given(patch_positions, (*count, 2), 0),
      patch_images=given(patch_images, count, 1), maskable=np.zeros(count, bool))


def packed(samples, patches_per_token: int, padding: int) -> Prompt:
  """Samples one after the other in one row, with ``padding`` behind their tokens."""
  tokens, images, parts = 0, 0, []
  for number, sample in enumerate(samples, 1):
    parts.append(sample.replace(
        segments=sample.segments * number,
        image_index=sample.image_index + tokens * (sample.image_index >= 0),
        patch_images=sample.patch_images + images))
    tokens += sample.patches.shape[1] // patches_per_token
    images += sample.patch_images.max()
  row = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *parts)
  return padded(row, padding)


def padded(prompt: Prompt, count: int) -> Prompt:
  """The prompt with ``count`` tokens of padding behind it."""
  def pad(leaf, value=0):
    return np.pad(leaf, [(0, 0), (0, count)] + [(0, 0)] * (leaf.ndim - 2), constant_values=value)

  return prompt.replace(
      tokens=pad(prompt.tokens), positions=pad(prompt.positions), segments=pad(prompt.segments),
      loss_mask=pad(prompt.loss_mask), image_index=pad(prompt.image_index, -1),
      query_index=pad(prompt.query_index, -1), shown=pad(prompt.shown),
      state_positions=pad(prompt.state_positions))


@functools.partial(jax.jit, static_argnames='module')
def logits_of(module, params, prompt):
  return module.apply({'params': params}, prompt)


def greedy_without_cache(module, params, prompt: Prompt, count: int) -> list[int]:
  """Runs the whole text again for every token, in one row of one static length."""
  start = prompt.tokens.shape[1]
  grown = padded(prompt, count)
  behind = prompt.positions.max() + 1 + np.arange(count)
  grown.positions[0, start:] = behind[:, None]
  for end in range(start, start + count):
    logits = np.asarray(logits_of(module, params, grown))
    grown.tokens[0, end], grown.segments[0, end] = logits[0, end - 1].argmax(), 1
  return grown.tokens[0, start:].tolist()
