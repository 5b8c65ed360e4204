"""Packing: several samples to a row, with segment ids, in arrays of one static shape."""

import dataclasses
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from jaxgen.core.errors import user_error
from jaxgen.core.types import Batch
from jaxgen.core.types import Conditioning
from jaxgen.core.types import Layout
from jaxgen.core.types import Meta
from jaxgen.core.types import Prompt
from jaxgen.core.types import Tower
from jaxgen.core.types import Vision
from jaxgen.core.types import Visual
from jaxgen.data.dialects import DIALECTS
from jaxgen.data.example import Example
from jaxgen.data.example import LatentImage
from jaxgen.data.example import Patches
from jaxgen.data.example import SampleConditioning
from jaxgen.data.example import Size
from jaxgen.data.example import TokenizedPrompt
from jaxgen.data.example import TowerPrompt
from jaxgen.data.sample import hash_id
from jaxgen.data.states import ConditioningShape
from jaxgen.data.vision import FRAMES

# Config field that sets each budget of a row.
_FIELDS = {'segments': 'segments_per_row', 'visual tokens': 'visual_tokens',
           'prompt tokens': 'prompt_tokens', 'patches': 'patches'}


@dataclasses.dataclass(frozen=True)
class RowShape:
  """The static sizes of a row.

  Attributes:
    segments: G. visual_tokens: L. prompt_tokens: S.
    patches: P; 0 where the language model sees no image.
    patch_dim: Dp, values of one patch.
    merge: patches along one side of an image token.
    encoded: patches are image tokens, and P, Dp and merge are theirs; see ``Prompt``.
    latent_factor, latent_channels: pixels along one side of a latent token, and C.
    towers: group -> T, tokens of a tower's prompt, cropped ones included.
    conditioning: of what rows hold in place of prompts; None = the prompts are read.
  """

  segments: int
  visual_tokens: int
  prompt_tokens: int
  patches: int
  patch_dim: int
  merge: int
  latent_factor: int
  latent_channels: int
  towers: Mapping[str, int] = dataclasses.field(default_factory=dict)
  conditioning: ConditioningShape | None = None
  encoded: bool = False

  @classmethod
  def of(cls, data: ConfigDict, layout: Layout, sees: bool | None = None,
         conditioning: ConditioningShape | None = None, token_width: int = 0) -> 'RowShape':
    """Reads the sizes from ``config.data`` and the models' layout.

    Args:
      data: ``config.data``.
      layout: sizes of the models.
      sees: some sample shows the language model an image; None = as the tasks of the sources say.
      conditioning: of the entries of the cache ``data.states``, if it is read.
      token_width: channels of the image tokens of the cache ``data.image_tokens``; 0 = it is not
        read.

    Raises:
      UserError: ``data.patches`` is missing or holds no whole number of images or image tokens.
    """
    if conditioning:
      return cls(data.segments_per_row, data.visual_tokens, 0, 0, 0, 1, layout.latent.factor,
                 layout.latent.channels, conditioning=conditioning)
    vision = layout.vision
    if sees is None:
      sees = any(source.task != 'pair' for source in data.sources.values())
    frames = FRAMES if vision and vision.kind == 'native' else 1
    shape = cls(data.segments_per_row, data.visual_tokens,
                data.prompt_tokens if layout.dialect else 0,
                _patches(data, vision, sees) if vision else 0,
                3 * frames * vision.patch**2 if vision else 0,
                vision.merge if vision else 1, layout.latent.factor, layout.latent.channels,
                {group: text.length + DIALECTS[text.dialect].crop
                 for group, text in layout.towers.items()})
    return shape.with_tokens(token_width) if token_width else shape

  def with_tokens(self, width: int) -> 'RowShape':
    """The same row with image tokens of ``width`` channels in place of patches."""
    return dataclasses.replace(self, patches=self.patches // self.merge**2, patch_dim=width,
                               merge=1, encoded=True)

  def needs(self, example: Example) -> dict[str, int]:
    """How much of a row the example takes up."""
    return {'segments': 1,
            'visual tokens': example.visual_tokens,
            'prompt tokens': len(example.prompt.tokens),
            'patches': len(example.patches.values)}

  def limits(self) -> dict[str, int]:
    """What a row offers."""
    return {'segments': self.segments, 'visual tokens': self.visual_tokens,
            'prompt tokens': self.prompt_tokens, 'patches': self.patches}

  def refusal(self, example: Example) -> str:
    """Why no row can hold the example and which field to raise; '' where an empty row can."""
    limits = self.limits()
    for name, amount in self.needs(example).items():
      if amount > limits[name]:
        what = 'image tokens' if self.encoded and name == 'patches' else name
        return (f'has {amount} {what}, but a row holds {limits[name]}; '
                f'raise config.data.{_FIELDS[name]}')
    return ''


@dataclasses.dataclass(frozen=True)
class Loaded:
  """One batch as the loader hands it out.

  Attributes:
    batch: numpy arrays; ``visual.latents`` are zeros where ``images`` are still to be encoded.
    images: (height, width) -> (uint8[n, height, width, 3], i32[n] slots), where a slot is
      ``row * L + first latent token`` with rows counted within this process.
    padding_share: share of the visual tokens that are padding; 0 where L is 0.
    ids: sample ids of every row, in segment order.
  """

  batch: Batch
  images: dict[Size, tuple[np.ndarray, np.ndarray]]
  padding_share: float
  ids: tuple[tuple[str, ...], ...]


class Row:
  """A row that is being filled."""

  def __init__(self, shape: RowShape):
    self.examples: list[Example] = []
    self._shape = shape
    self._left = shape.limits()

  @property
  def full(self) -> bool:
    return self._left['segments'] == 0

  def fits(self, example: Example) -> bool:
    """True where every budget has room for the example."""
    return all(amount <= self._left[name] for name, amount in self._shape.needs(example).items())

  def add(self, example: Example) -> bool:
    """Appends the example if it fits, else returns False."""
    if not self.fits(example):
      return False
    for name, amount in self._shape.needs(example).items():
      self._left[name] -= amount
    self.examples.append(example)
    return True


def pack(rows: Sequence[Sequence[Example]], shape: RowShape, pad: int = 0,
         first_row: int = 0) -> Loaded:
  """Writes examples that are known to fit into the arrays of a batch.

  Args:
    rows: the examples of every row.
    shape: the sizes of a row.
    pad: token id that fills the prompt.
    first_row: number of ``rows[0]`` within the global batch.
  """
  batch = _empty_batch(len(rows), shape, pad, first_row)
  to_encode: dict[Size, tuple[list[np.ndarray], list[int]]] = {}
  for row, examples in enumerate(rows):
    text = visual = patch = images = patch_images = 0
    for segment, example in enumerate(examples, start=1):
      image_tokens, rest = divmod(len(example.patches.values), shape.merge**2)
      assert not rest and example.prompt.image_index.max(initial=-1) < image_tokens, example.id
      _write_prompt(batch.prompt, row, text, segment, example.prompt, patch // shape.merge**2)
      text += len(example.prompt.tokens)
      _write_patches(batch.prompt, row, patch, example.patches, patch_images)
      patch += len(example.patches.values)
      patch_images += int(example.patches.images.max(initial=0))
      for image in example.images:
        images += 1
        _write_image(batch.visual, row, visual, segment, images, image, shape)
        if image.latents is None and image.pixels is not None:
          pixels, slots = to_encode.setdefault(image.size, ([], []))
          pixels.append(image.pixels)
          slots.append(row * shape.visual_tokens + visual)
        visual += len(image.positions)
      # Learned pads belong to the sample, but to no image, and stand at (0, 0, 0).
      batch.visual.segments[row, visual:visual + example.pads] = segment
      visual += example.pads
      for group, prompt in example.towers.items():
        _write_tower(batch.towers[group], row, segment, prompt)
      if example.conditioning:
        _write_conditioning(batch.conditioning, row, segment, example.conditioning,
                            shape.conditioning.tokens)
      batch.meta.sample_ids[row, segment - 1] = hash_id(example.id)
      batch.meta.source_ids[row, segment - 1] = example.source
  return Loaded(
      batch, {size: (np.stack(pixels), np.asarray(slots, np.int32))
              for size, (pixels, slots) in to_encode.items()},
      float((batch.visual.segments == 0).mean()) if shape.visual_tokens else 0.0,
      tuple(tuple(example.id for example in examples) for examples in rows))


def _patches(data: ConfigDict, vision: Vision, sees: bool) -> int:
  """P: as given, or for square images one image for each segment."""
  if not sees and not data.patches:
    return 0
  if vision.kind == 'square':
    unit, what = (vision.size // vision.patch)**2, 'image'
  else:
    unit, what = vision.merge**2, 'image token'
  if data.patches % unit or (vision.kind == 'native' and not data.patches):
    raise user_error('config.data.patches', data.patches,
                     f'use a multiple of {unit}, the patches of one {what}')
  return data.patches or data.segments_per_row * unit


def _empty_batch(rows: int, shape: RowShape, pad: int, first_row: int) -> Batch:
  length, words, patches = shape.visual_tokens, shape.prompt_tokens, shape.patches
  visual = Visual(latents=np.zeros((rows, length, shape.latent_channels), np.float32),
                  positions=np.zeros((rows, length, 3), np.int32),
                  segments=np.zeros((rows, length), np.int32),
                  images=np.zeros((rows, length), np.int32),
                  is_target=np.zeros((rows, length), bool))
  prompt = Prompt(tokens=np.full((rows, words), pad, np.int32),
                  positions=np.zeros((rows, words, 3), np.int32),
                  segments=np.zeros((rows, words), np.int32),
                  loss_mask=np.zeros((rows, words), np.float32),
                  image_index=np.full((rows, words), -1, np.int32),
                  query_index=np.full((rows, words), -1, np.int32),
                  shown=np.zeros((rows, words), bool),
                  state_positions=np.zeros((rows, words, 3), np.int32),
                  patches=np.zeros((rows, patches, shape.patch_dim), np.float32),
                  patch_positions=np.zeros((rows, patches, 2), np.int32),
                  patch_images=np.zeros((rows, patches), np.int32),
                  maskable=np.zeros((rows, patches), bool), encoded=shape.encoded)
  meta = Meta(sample_ids=np.full((rows, shape.segments), -1, np.int32),
              source_ids=np.full((rows, shape.segments), -1, np.int32),
              rows=first_row + np.arange(rows, dtype=np.int32))
  towers = {group: Tower(tokens=np.zeros((rows, shape.segments, tokens), np.int32),
                         mask=np.zeros((rows, shape.segments, tokens), bool),
                         shown=np.zeros((rows, shape.segments, tokens), bool),
                         state_positions=np.zeros((rows, shape.segments, tokens, 3), np.int32))
            for group, tokens in shape.towers.items()}
  conditioning = shape.conditioning and shape.conditioning.empty(rows, shape.segments)
  return Batch(visual=visual, prompt=prompt, meta=meta, towers=towers,
               conditioning=conditioning)


def _write_prompt(to: Prompt, row: int, start: int, segment: int, prompt: TokenizedPrompt,
                  image_tokens: int) -> None:
  """Image tokens are counted along the row, so ``image_tokens`` of earlier samples are added."""
  where = (row, slice(start, start + len(prompt.tokens)))
  to.segments[where] = segment
  to.image_index[where] = np.where(prompt.image_index >= 0, prompt.image_index + image_tokens, -1)
  for name in ('tokens', 'positions', 'loss_mask', 'query_index', 'shown', 'state_positions'):
    getattr(to, name)[where] = getattr(prompt, name)


def _write_patches(to: Prompt, row: int, start: int, patches: Patches, images: int) -> None:
  where = (row, slice(start, start + len(patches.values)))
  to.patches[where] = patches.values
  to.patch_positions[where] = patches.positions
  to.patch_images[where] = patches.images + images
  to.maskable[where] = patches.maskable


def _write_image(to: Visual, row: int, start: int, segment: int, number: int, image: LatentImage,
                 shape: RowShape) -> None:
  tokens = len(image.positions)
  assert image.size[0] * image.size[1] == tokens * shape.latent_factor**2, (image.size, tokens)
  where = (row, slice(start, start + tokens))
  to.positions[where] = image.positions
  to.segments[where] = segment
  to.images[where] = number
  to.is_target[where] = image.is_target
  if image.latents is not None:
    to.latents[where] = image.latents


def _write_tower(to: Tower, row: int, segment: int, prompt: TowerPrompt) -> None:
  assert prompt.tokens.shape == to.tokens.shape[2:], (prompt.tokens.shape, to.tokens.shape)
  for name in ('tokens', 'mask', 'shown', 'state_positions'):
    getattr(to, name)[row, segment - 1] = getattr(prompt, name)


def _write_conditioning(to: Conditioning, row: int, segment: int, sample: SampleConditioning,
                        tokens: int) -> None:
  """The states of a sample stand at the place of its segment, ``tokens`` apart."""
  start = (segment - 1) * tokens
  where = (row, slice(start, start + len(sample.states)))
  to.states[where], to.positions[where], to.segments[where] = (
      sample.states, sample.positions, segment)
  if to.pads is not None:
    to.pads[where] = sample.pads
  for name in ('pooled', 'guidance'):
    if getattr(to, name) is not None:
      getattr(to, name)[row, segment - 1] = getattr(sample, name)
