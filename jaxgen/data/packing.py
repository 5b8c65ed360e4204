"""Packing: several samples to a row, with segment ids, in arrays of one static shape."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from jaxgen.core.errors import user_error
from jaxgen.core.types import Batch
from jaxgen.core.types import Layout
from jaxgen.core.types import Meta
from jaxgen.core.types import Prompt
from jaxgen.core.types import Visual
from jaxgen.data.positions import grid_positions
from jaxgen.data.positions import image_positions
from jaxgen.data.positions import text_positions
from jaxgen.data.sample import hash_id

# Tasks in which the language model sees an image; without any, P is 0.
SEEING_TASKS = ('image', 'caption')
# ImageNet statistics, with which InternVL's vision tower was trained.
VISION_MEAN = np.asarray([0.485, 0.456, 0.406], np.float32)
VISION_STD = np.asarray([0.229, 0.224, 0.225], np.float32)
# Config field that sets each limit of a row.
_FIELDS = {'segments': 'segments_per_row', 'prompt tokens': 'prompt_tokens',
           'visual tokens': 'visual_tokens', 'patches': 'segments_per_row'}


@dataclasses.dataclass(frozen=True)
class Example:
  """A sample that is ready to be packed.

  Attributes:
    id: of the sample.
    source: index of its source in the mixture.
    tokens, image_index, loss_mask: the prompt, i32[n], i32[n], f32[n]; image_index counts the
      image tokens of this sample.
    seen: images that the language model sees, uint8[V, V, 3] each.
    seen_is_target: True where they show the very image to be generated.
    targets: images to be generated, uint8[H, W, 3] each.
  """

  id: str
  source: int
  tokens: np.ndarray
  image_index: np.ndarray
  loss_mask: np.ndarray
  seen: tuple[np.ndarray, ...] = ()
  seen_is_target: bool = False
  targets: tuple[np.ndarray, ...] = ()


@dataclasses.dataclass(frozen=True)
class RowShape:
  """The static sizes of a row.

  Attributes:
    segments: G. visual_tokens: L. prompt_tokens: S.
    patches: P; 0 where no task of the config shows the language model an image.
    vision_size, vision_patch: side of a seen image and of its patches, in pixels.
    vision_tokens: prompt tokens of one seen image.
    latent_factor, latent_channels: pixels along a latent token, and C.
  """

  segments: int
  visual_tokens: int
  prompt_tokens: int
  patches: int
  vision_size: int
  vision_patch: int
  vision_tokens: int
  latent_factor: int
  latent_channels: int

  @classmethod
  def of(cls, data: ConfigDict, layout: Layout) -> 'RowShape':
    """Reads the sizes from ``config.data`` and the models' layout."""
    for field, unit in (('vision_size', layout.vision_patch), ('image_size', layout.latent_factor)):
      if data[field] % unit:
        raise user_error(f'config.data.{field}', data[field], f'use a multiple of {unit}')
    sees = any(source.task in SEEING_TASKS for source in data.sources.values())
    per_image = (data.vision_size // layout.vision_patch)**2
    return cls(data.segments_per_row, data.visual_tokens, data.prompt_tokens,
               data.segments_per_row * per_image if sees else 0, data.vision_size,
               layout.vision_patch, layout.vision_tokens, layout.latent_factor,
               layout.latent_channels)

  @property
  def patches_per_image(self) -> int:
    return (self.vision_size // self.vision_patch)**2

  def needs(self, example: Example) -> dict[str, int]:
    """How much of a row the example takes up."""
    area = sum(target.shape[0] * target.shape[1] for target in example.targets)
    return {'segments': 1, 'prompt tokens': len(example.tokens),
            'visual tokens': area // self.latent_factor**2,
            'patches': len(example.seen) * self.patches_per_image}

  def limits(self) -> dict[str, int]:
    """What a row offers."""
    return {'segments': self.segments, 'prompt tokens': self.prompt_tokens,
            'visual tokens': self.visual_tokens, 'patches': self.patches}


@dataclasses.dataclass(frozen=True)
class Loaded:
  """One batch as the loader hands it out.

  Attributes:
    batch: numpy arrays; ``visual.latents`` are zeros until the images are encoded.
    images: (height, width) -> (uint8[n, height, width, 3], i32[n] slots), where a slot is
      ``row * L + first latent token`` with rows counted within this process.
    padding_share: share of the visual tokens that are padding; 0 where L is 0.
    ids: sample ids of every row, in segment order.
  """

  batch: Batch
  images: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]
  padding_share: float
  ids: tuple[tuple[str, ...], ...]


class Row:
  """A row that is being filled, greedily and in order."""

  def __init__(self, shape: RowShape):
    self.examples: list[Example] = []
    self._shape = shape
    self._left = shape.limits()

  @property
  def full(self) -> bool:
    return self._left['segments'] == 0

  def add(self, example: Example) -> bool:
    """Appends the example if it fits.

    Returns:
      False where it does not fit and must open the next row.

    Raises:
      UserError: it does not even fit into an empty row.
    """
    needs = self._shape.needs(example)
    short = [name for name, amount in needs.items() if amount > self._left[name]]
    if short and not self.examples:
      name = short[0]
      raise user_error(f'sample {example.id}', None, f'has {needs[name]} {name}, but a row holds '
                       f'{self._left[name]}; raise config.data.{_FIELDS[name]}')
    if short:
      return False
    for name, amount in needs.items():
      self._left[name] -= amount
    self.examples.append(example)
    return True


def pack(rows: Sequence[Sequence[Example]], shape: RowShape, pad: int) -> Loaded:
  """Writes examples that are known to fit into the arrays of a batch.

  Args:
    rows: the examples of every row.
    shape: the sizes of a row.
    pad: token id that fills the prompt.
  """
  batch = _empty_batch(len(rows), shape, pad)
  images: dict[tuple[int, int], tuple[list[np.ndarray], list[int]]] = {}
  seen, slots = [], []
  for row, examples in enumerate(rows):
    text = visual = patch = 0
    for segment, example in enumerate(examples, start=1):
      images_before = patch // shape.patches_per_image
      _write_text(batch.prompt, row, text, segment, example, images_before * shape.vision_tokens)
      text += len(example.tokens)
      for image in example.seen:
        _write_seen(batch.prompt, row, patch, segment, example, shape)
        seen.append(image)
        slots.append((row, patch))
        patch += shape.patches_per_image
      for image in example.targets:
        group = images.setdefault(image.shape[:2], ([], []))
        group[0].append(image)
        group[1].append(row * shape.visual_tokens + visual)
        visual = _write_target(batch.visual, row, visual, segment, image, shape)
      batch.meta.sample_ids[row, segment - 1] = hash_id(example.id)
      batch.meta.task_ids[row, segment - 1] = example.source
  _write_patches(batch.prompt.patches, seen, slots, shape)
  return Loaded(
      batch, {size: (np.stack(group), np.asarray(at, np.int32))
              for size, (group, at) in images.items()},
      float((batch.visual.segments == 0).mean()) if shape.visual_tokens else 0.0,
      tuple(tuple(example.id for example in examples) for examples in rows))


def _empty_batch(rows: int, shape: RowShape, pad: int) -> Batch:
  length, words, patches = shape.visual_tokens, shape.prompt_tokens, shape.patches
  visual = Visual(latents=np.zeros((rows, length, shape.latent_channels), np.float32),
                  positions=np.zeros((rows, length, 3), np.int32),
                  segments=np.zeros((rows, length), np.int32),
                  is_target=np.zeros((rows, length), bool))
  prompt = Prompt(tokens=np.full((rows, words), pad, np.int32),
                  positions=np.zeros((rows, words, 3), np.int32),
                  segments=np.zeros((rows, words), np.int32),
                  loss_mask=np.zeros((rows, words), np.float32),
                  image_index=np.full((rows, words), -1, np.int32),
                  patches=np.zeros((rows, patches, 3 * shape.vision_patch**2), np.float32),
                  patch_positions=np.zeros((rows, patches, 2), np.int32),
                  patch_segments=np.zeros((rows, patches), np.int32),
                  patch_is_target=np.zeros((rows, patches), bool))
  meta = Meta(sample_ids=np.full((rows, shape.segments), -1, np.int32),
              task_ids=np.full((rows, shape.segments), -1, np.int32))
  return Batch(visual=visual, prompt=prompt, meta=meta)


def _write_text(prompt: Prompt, row: int, start: int, segment: int, example: Example,
                first_image_token: int) -> None:
  where = (row, slice(start, start + len(example.tokens)))
  prompt.tokens[where] = example.tokens
  prompt.positions[where] = text_positions(len(example.tokens))
  prompt.segments[where] = segment
  prompt.loss_mask[where] = example.loss_mask
  prompt.image_index[where] = np.where(example.image_index >= 0,
                                       example.image_index + first_image_token, -1)


def _write_seen(prompt: Prompt, row: int, start: int, segment: int, example: Example,
                shape: RowShape) -> None:
  side = shape.vision_size // shape.vision_patch
  where = (row, slice(start, start + side * side))
  prompt.patch_positions[where] = grid_positions(side, side)
  prompt.patch_segments[where] = segment
  prompt.patch_is_target[where] = example.seen_is_target


def _write_target(visual: Visual, row: int, start: int, segment: int, image: np.ndarray,
                  shape: RowShape) -> int:
  """Marks the tokens of a target image; returns where the next one starts."""
  height, width = (side // shape.latent_factor for side in image.shape[:2])
  where = (row, slice(start, start + height * width))
  visual.positions[where] = image_positions(height, width)
  visual.segments[where] = segment
  visual.is_target[where] = True
  return start + height * width


def _write_patches(patches: np.ndarray, images: Sequence[np.ndarray],
                   slots: Sequence[tuple[int, int]], shape: RowShape) -> None:
  """Normalises the seen images and cuts them up, all at once; each patch is (c, ph, pw)."""
  if not images:
    return
  side, size = shape.vision_size // shape.vision_patch, shape.vision_patch
  values = (np.stack(images).astype(np.float32) / 255 - VISION_MEAN) / VISION_STD
  values = values.reshape(len(images), side, size, side, size, 3)
  values = values.transpose(0, 1, 3, 5, 2, 4).reshape(len(images), side * side, 3 * size * size)
  for (row, start), value in zip(slots, values):
    patches[row, start:start + side * side] = value
