"""From a sample to an example: decode and fit the images, write the prompt, place everything.

One maker serves training and requests: a request is a sample whose targets have a size and no
pixels, and gets the same tokens, positions and order.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from jaxgen.config.schema import DIALOGUE_TASKS
from jaxgen.config.schema import LANGUAGE_TASKS
from jaxgen.core.errors import RecordError
from jaxgen.core.errors import UserError
from jaxgen.core.errors import record_error
from jaxgen.core.errors import user_error
from jaxgen.core.types import Layout
from jaxgen.data import images
from jaxgen.data import positions
from jaxgen.data import templates
from jaxgen.data.buckets import bucket_set
from jaxgen.data.cache import COMMAND
from jaxgen.data.cache import FIELD
from jaxgen.data.cache import Cache
from jaxgen.data.cache import image_key
from jaxgen.data.decode import image_size
from jaxgen.data.dialects import DIALECTS
from jaxgen.data.example import Encodable
from jaxgen.data.example import Example
from jaxgen.data.example import LatentImage
from jaxgen.data.example import Patches
from jaxgen.data.example import Size
from jaxgen.data.example import TokenizedPrompt
from jaxgen.data.example import TowerPrompt
from jaxgen.data.fitted import Fitted
from jaxgen.data.fitted import Pixels
from jaxgen.data.image_tokens import COMMAND as TOKENS_COMMAND
from jaxgen.data.image_tokens import FIELD as TOKENS_FIELD
from jaxgen.data.image_tokens import ImageTokens
from jaxgen.data.packing import RowShape
from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample
from jaxgen.data.states import COMMAND as STATES_COMMAND
from jaxgen.data.states import FIELD as STATES_FIELD
from jaxgen.data.states import States
from jaxgen.data.states import prompt_key
from jaxgen.data.tokenizer import Tokenizer
from jaxgen.data.tokenizer import load_tokenizer
from jaxgen.data.towers import TowerTokenizer
from jaxgen.data.towers import load_tower_tokenizer
from jaxgen.data.vision import make_vision

NO_PROMPT = TokenizedPrompt(
    np.zeros(0, np.int32), np.zeros((0, 3), np.int32), np.zeros(0, np.float32),
    np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, bool), np.zeros((0, 3), np.int32))


class ExampleMaker:
  """Makes examples of samples that a task has prepared.

  Args:
    data: ``config.data``.
    layout: what the models need.
    tokenizer: of the language model; None for systems without one.
    towers: group -> tokenizer of each text tower.
    cache: gives the latents of all images; None = pixels are prepared to be encoded.
    states: the conditioning of all prompts; None = the prompts are read.
    image_tokens: gives what the vision tower makes of all images; None = it reads their patches.
  """

  def __init__(self, data: ConfigDict, layout: Layout, tokenizer: Tokenizer | None,
               towers: Mapping[str, TowerTokenizer], cache: Cache | None = None,
               states: States | None = None, image_tokens: ImageTokens | None = None):
    self._data, self._layout, self._cache, self._states = data, layout, cache, states
    self._image_tokens, self._tokenizer, self._towers = image_tokens, tokenizer, towers
    self._dialect = DIALECTS[layout.dialect] if layout.dialect else None
    buckets = bucket_set(data.buckets or f'square:{data.image_size}')
    self._rules = images.Rules(buckets, buckets if data.references == 'bucket' else (),
                               data.reference_pixels, data.reference_side,
                               area=data.references == 'area')
    least, most = data.vision_pixels
    self._vision = layout.vision and make_vision(
        layout.vision, min_pixels=least, max_pixels=most, max_side=data.vision_side,
        area=data.vision_area)

  @classmethod
  def of(cls, config: ConfigDict, layout: Layout, cache: Cache | None = None,
         states: States | None = None, image_tokens: ImageTokens | None = None
         ) -> 'ExampleMaker':
    """Loads the tokenizers of a config.

    Raises:
      UserError: a tokenizer that is missing, of another kind of model or of more tokens than the
        model knows, or an unknown set of buckets.
    """
    data, towers = config.data, {}
    for group, text in layout.towers.items():
      field = f'config.data.tower_tokenizers.{group}'
      if group not in data.tower_tokenizers:
        raise user_error(field, None, 'give the folder of its tokenizer')
      towers[group] = load_tower_tokenizer(data.tower_tokenizers[group], text, field=field)
    tokenizer = load_tokenizer(data.tokenizer, bov=data.bov_token) if layout.dialect else None
    if tokenizer and 0 < layout.vocab < tokenizer.vocab_size:
      raise user_error('config.data.tokenizer', data.tokenizer, f'has {tokenizer.vocab_size} '
                       f'tokens with bov_token = {data.bov_token!r}, but the language model knows '
                       f"{layout.vocab}; use the model's own, or raise its vocab and let "
                       'config.init_from.changes extend its embeddings')
    return cls(data, layout, tokenizer, towers, cache, states, image_tokens)

  @property
  def layout(self) -> Layout:
    """What the models need."""
    return self._layout

  @property
  def tokenizer(self) -> Tokenizer:
    """Of the language model."""
    return self._tokenizer

  @property
  def towers(self) -> Mapping[str, TowerTokenizer]:
    """Group -> tokenizer of each text tower."""
    return self._towers

  @property
  def pad(self) -> int:
    """Token id that fills rows."""
    return self._tokenizer.pad if self._tokenizer else 0

  @property
  def sizes(self) -> tuple[Size, ...]:
    """(height, width) that the images of the denoiser have, native references apart."""
    return self._rules.buckets

  def row_shape(self, sees: bool | None = None) -> RowShape:
    """The static sizes of a row; see ``RowShape.of``."""
    return RowShape.of(self._data, self._layout, sees, self._states and self._states.shape,
                       self._image_tokens.width if self._image_tokens else 0)

  def uses(self, sample: Sample) -> tuple[list[int], list[int]]:
    """Which images of a prepared sample go where, as indices into its parts.

    Returns:
      Those that the language model sees, in the order of its patches, and those that the denoiser
      gets, in the order of its sequence.
    """
    generate = sample.task not in LANGUAGE_TASKS
    return (templates.shown_images(self._read(sample), generate),
            drawn_images(sample.parts, self._layout.scheme, self._data.clean_roles)
            if generate else [])

  def __call__(self, sample: Sample, source: int = 0, kept: Fitted | None = None) -> Example:
    """The example of a prepared sample.

    Args:
      sample: as ``tasks.prepare`` leaves it.
      source: index of its source in the mixture.
      kept: fitted images of earlier calls, which this one adds to; None keeps none.

    Raises:
      DecodeError: an image cannot be read.
      UserError: more references than the config allows, a prompt that is too long, or more images
        than the scheme has places for.
    """
    self._check_references(sample)
    generate = sample.task not in LANGUAGE_TASKS
    seen, given = self.uses(sample)
    shown, drawn = ([sample.parts[index] for index in indices] for indices in (seen, given))
    plans = self._plans(drawn)
    views = [self._vision.fit(image_size(part.image)) for part in shown]
    pixels = Pixels({} if kept is None else kept)
    patches = self._patches(sample, () if self._states else shown, views, pixels)
    grids = [positions.Grid(grid_role(part), *self._grid(plan.size))
             for part, plan in zip(drawn, plans)]
    tokens = self._tokens(sample, views, generate, self._layout.queries if drawn else 0)
    self._check_length(sample, len(tokens.tokens))
    visible = self._visible(tokens)
    towers = {group: tower.tokens(_words(sample)) for group, tower in self._towers.items()}
    states = max([int(visible.sum()), *(int(tower.shown.sum()) for tower in towers.values())])
    placed = self._place(sample, grids, states)
    pads = -sum(map(len, placed.images)) % self._layout.latent.multiple
    example = Example(
        sample.id, source, self._prompt(tokens, visible, placed.states, views), patches,
        tuple(self._latent_image(sample, part, plan, where, pixels)
              for part, plan, where in zip(drawn, plans, placed.images)),
        {group: TowerPrompt(tower.tokens, tower.mask, tower.shown,
                            _scatter(tower.shown, placed.states))
         for group, tower in towers.items()}, pads)
    return self._conditioned(sample, example) if self._states else example

  def to_encode(self, sample: Sample) -> list[tuple[Part, images.Planned]]:
    """The images of a worded sample that are encoded for the denoiser, with their plans."""
    drawn = [sample.parts[index] for index in self.uses(sample)[1]]
    return [(part, plan) for part, plan in zip(drawn, self._plans(drawn)) if part.image is not None]

  def latent_entries(self, sample: Sample) -> Iterator[Encodable]:
    """The images of a worded sample whose latents a cache holds."""
    for part, plan in self.to_encode(sample):
      yield Encodable(self._key(part, plan), plan.size, functools.partial(
          Pixels({}).cover, part, plan, self._data.fit))

  def token_entries(self, sample: Sample) -> Iterator[Encodable]:
    """The images of a worded sample whose image tokens a cache holds."""
    for index in self.uses(sample)[0]:
      part = sample.parts[index]
      view = self._vision.fit(image_size(part.image))
      yield Encodable(self._view_key(part, view), view, functools.partial(
          self._cut, part, view, Pixels({})))

  def prompt_key(self, sample: Sample, example: Example) -> bytes:
    """The key of the conditioning of a prepared sample, of which ``example`` was made.

    Raises:
      DecodeError: an image that the language model sees cannot be read.
    """
    shown = [sample.parts[index] for index in self.uses(sample)[0]]
    views = [self._vision.fit(image_size(part.image)) for part in shown]
    return prompt_key(example.prompt, example.towers, [
        self._view_key(part, view) for part, view in zip(shown, views)])

  def _key(self, part: Part, plan: images.Planned) -> bytes:
    """The key of an image's latents in a cache."""
    return image_key(part.image, plan.size, plan.like, plan.mode or self._data.fit)

  def _view_key(self, part: Part, view: Size) -> bytes:
    """The key of what the language model sees of an image."""
    return image_key(part.image, view, self._vision.stretched(image_size(part.image)), 'view')

  def _latent_image(self, sample: Sample, part: Part, plan: images.Planned, where: np.ndarray,
                    pixels: Pixels) -> LatentImage:
    image = LatentImage(plan.size, where, part.is_target)
    if part.image is None:
      return image
    if self._cache is None:
      return dataclasses.replace(image, pixels=pixels.cover(part, plan, self._data.fit))
    shape = (len(where), self._layout.latent.channels)
    found = pixels.entry(part, plan, 'latents',
                         lambda: self._cache.get(self._key(part, plan), shape))
    if found is None:
      raise _missing(FIELD, self._cache.folder, sample, f'the latents of its {part.role} image at '
                     f'{plan.size[0]} x {plan.size[1]}', COMMAND)
    return dataclasses.replace(image, latents=found)

  def _conditioned(self, sample: Sample, example: Example) -> Example:
    """The example with the entry of the cache in place of its prompts."""
    conditioning = self._states.get(self.prompt_key(sample, example))
    if conditioning is None:
      raise _missing(STATES_FIELD, self._states.folder, sample, 'the states of its prompt',
                     STATES_COMMAND)
    return dataclasses.replace(example, prompt=NO_PROMPT, towers={}, conditioning=conditioning)

  def _read(self, sample: Sample) -> Sequence[Part]:
    """The parts as the language model gets them: one without a vision tower sees no image."""
    if self._vision:
      return sample.parts
    return [dataclasses.replace(part, seen=False) for part in sample.parts]

  def _plans(self, drawn: Sequence[Part]) -> list[images.Planned]:
    """The size of every image of the denoiser; a source shares its target's crop."""
    given = [images.Given(grid_role(part), None if part.image is None else
                          image_size(part.image), part.size) for part in drawn]
    return images.plan_sizes(given, self._rules, self._layout.latent.factor)

  def _place(self, sample: Sample, grids: Sequence[positions.Grid], states: int
             ) -> positions.Placed:
    try:
      return positions.place(self._layout.scheme, grids, states)
    except RecordError as error:
      raise error.of(sample.origin or sample.id) from None

  def _tokens(self, sample: Sample, views: Sequence[Size], generate: bool, queries: int
              ) -> templates.Tokens:
    """The language model's prompt; empty for systems without one."""
    if not self._dialect:
      none = np.zeros(0, np.int32)
      return templates.Tokens(none, none.astype(np.float32), none, none, 0, 0)
    return templates.tokenize(
        self._read(sample), self._dialect, self._tokenizer,
        [self._vision.tokens(view) for view in views], queries, generate,
        longest=self._data.prompt_cut, placeholders=self._data.placeholders,
        bov_weight=self._data.bov_weight if sample.task in DIALOGUE_TASKS else 0.0,
        where=sample.origin or sample.id)

  def _grid(self, size: Size) -> tuple[int, int]:
    factor = self._layout.latent.factor
    return size[0] // factor, size[1] // factor

  def _patches(self, sample: Sample, shown: Sequence[Part], views: Sequence[Size], pixels: Pixels
               ) -> Patches:
    """What the language model sees, or the image tokens of the cache in its place."""
    if not shown:
      return Patches(np.zeros((0, self.row_shape(sees=False).patch_dim), np.float32),
                     np.zeros((0, 2), np.int32), np.zeros(0, np.int32), np.zeros(0, bool))
    see = functools.partial(self._known, sample) if self._image_tokens else self._cut
    seen = [see(part, view, pixels) for part, view in zip(shown, views)]
    return Patches(
        np.concatenate([image.values for image in seen]),
        np.concatenate([image.positions for image in seen]),
        np.concatenate([number * image.images for number, image in enumerate(seen, start=1)]),
        np.concatenate([image.maskable for image in seen]))

  def _cut(self, part: Part, view: Size, pixels: Pixels) -> Patches:
    """One image as the vision tower gets it."""
    return Patches.of(self._vision.patches(pixels.view(part, view, self._vision)),
                      self._vision.patch_positions(view), part.maskable)

  def _known(self, sample: Sample, part: Part, view: Size, pixels: Pixels) -> Patches:
    """One image as the vision tower has encoded it before; its tokens have no positions."""
    found = pixels.entry(part, view, 'tokens', lambda: self._image_tokens.get(
        self._view_key(part, view), (self._vision.tokens(view), self._image_tokens.width)))
    if found is None:
      raise _missing(TOKENS_FIELD, self._image_tokens.folder, sample, f'the image tokens of its '
                     f'{part.role} image at {view[0]} x {view[1]}', TOKENS_COMMAND)
    return Patches.of(found, np.zeros((len(found), 2), np.int32), part.maskable)

  def _visible(self, tokens: templates.Tokens) -> np.ndarray:
    """bool[n]: what the denoiser is told of the prompt."""
    is_query = tokens.query_index >= 0
    chosen = {'all': np.ones_like(is_query), 'text': ~is_query, 'queries': is_query,
              'preceding': np.arange(len(is_query)) < tokens.preceding}
    return chosen[self._data.shown] & (np.arange(len(is_query)) >= tokens.crop)

  def _prompt(self, tokens: templates.Tokens, visible: np.ndarray, states: np.ndarray,
              views: Sequence[Size]) -> TokenizedPrompt:
    where = (self._vision.prompt_positions(tokens.image_index, views) if self._vision
             else positions.text_positions(len(tokens.tokens)))
    return TokenizedPrompt(tokens.tokens, where, tokens.loss_mask, tokens.image_index,
                           tokens.query_index, visible, _scatter(visible, states))

  def _check_references(self, sample: Sample) -> None:
    count = sum(part.role in ('reference', 'context') for part in sample.images)
    most = self._data.max_references
    if most and count > most:
      raise record_error(f'{sample.origin or sample.id}: references', count, 'more than '
                         f'config.data.max_references = {most}; give fewer or raise the limit')

  def _check_length(self, sample: Sample, length: int) -> None:
    if length > self._data.prompt_tokens:
      raise record_error(f'{sample.origin or sample.id}: caption', None, f'the prompt has {length} '
                         f'tokens, more than config.data.prompt_tokens = '
                         f'{self._data.prompt_tokens}; shorten it or raise the limit')


def drawn_images(parts: Sequence[Part], scheme: str, clean_roles: Sequence[str]) -> list[int]:
  """The images that the denoiser gets, as indices into the parts in the order of its sequence.

  Args:
    parts: as a task leaves them.
    scheme: of positions.
    clean_roles: roles whose images are clean latents.
  """
  found = [index for index, part in enumerate(parts) if part.is_target
           or (part.is_image and part.clean and grid_role(part) in clean_roles)]
  order = positions.order(scheme, [grid_role(parts[index]) for index in found])
  return [found[index] for index in order]


def grid_role(part: Part) -> str:
  """Role by which an image is placed: one that was a target once and is given now is context."""
  return 'context' if part.role == 'target' and not part.is_target else part.role


def _missing(field: str, folder: str, sample: Sample, what: str, command: str) -> UserError:
  return user_error(f'{field} = {folder!r}: sample {sample.origin or sample.id}', None,
                    f'{what} are missing; run {command} with this config again, which adds what is '
                    'missing')


def _words(sample: Sample) -> str:
  """What a text tower reads: all that the user says."""
  return '\n'.join(part.text for part in sample.texts if part.role == 'user')


def _scatter(shown: np.ndarray, states: np.ndarray) -> np.ndarray:
  """i32[n, 3]: the positions of the shown states, 0 elsewhere."""
  where = np.zeros((len(shown), 3), np.int32)
  where[shown] = states[:int(shown.sum())]
  return where
