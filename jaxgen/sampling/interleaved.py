"""The interleaved loop: text up to <BOV>, the image, text again, until the model ends its answer.

After each image the language model reads it and the denoiser gets it as a clean frame (paper of
DuetGen, section 4; L118). A dialogue is a sample that grows: whatever is written or drawn next
depends on it and on its own seed alone.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from jaxgen.core.errors import RecordError
from jaxgen.core.errors import user_error
from jaxgen.core.limits import MAX_GUIDANCE
from jaxgen.core.limits import MAX_IMAGES
from jaxgen.core.limits import MAX_OUTPUTS
from jaxgen.core.limits import MAX_SEED
from jaxgen.core.limits import MAX_TEMPERATURE
from jaxgen.core.limits import MAX_TOKENS
from jaxgen.core.limits import check_range
from jaxgen.core.types import Params
from jaxgen.data import tasks
from jaxgen.data.examples import ExampleMaker
from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample
from jaxgen.sampling.batching import example_of
from jaxgen.sampling.generate import ALL_DEVICES
from jaxgen.sampling.generate import Images
from jaxgen.sampling.generate import generate
from jaxgen.sampling.generate import placed
from jaxgen.sampling.reading import check_writes
from jaxgen.sampling.reading import Draft
from jaxgen.sampling.reading import Fixed
from jaxgen.sampling.reading import Reader
from jaxgen.sampling.request import Request
from jaxgen.sampling.request import check_fits
from jaxgen.sampling.request import default_size
from jaxgen.sampling.request import request_of
from jaxgen.sharding.mesh import make_mesh
from jaxgen.systems.base import System

# Why a dialogue has ended; where it has outgrown its row, the reason says so in other words.
ENDED = dict(end='the model ended its answer', image='it has as many images as it may have',
             cut='a text was longer than it may be')


@dataclasses.dataclass(frozen=True)
class Options:
  """How dialogues are answered.

  Attributes:
    images: exactly so many images: where the model would end before, it begins an image instead
      (a forced <BOV>), and another one ends the answer. 0 = when and as often as it begins one.
    max_images: with ``images`` 0, the most that an answer may have.
    max_tokens: of each text. With 0 nothing is written: ``images`` images follow one another.
    temperature: 0 writes the likeliest token.
    top_p: share of the probability that tokens are drawn from.
    guidance, image_guidance: scales of the images; None takes the config's.
    steps: of the solver; 0 takes the config's.
  """

  images: int = 0
  max_images: int = 8
  max_tokens: int = 512
  temperature: float = 0.0
  top_p: float = 1.0
  guidance: float | None = None
  image_guidance: float | None = None
  steps: int = 0

  def __post_init__(self):
    for name in ('images', 'max_images'):
      check_range(name, getattr(self, name), 0, MAX_IMAGES)
    check_range('max_tokens', self.max_tokens, 0, MAX_TOKENS)
    check_range('temperature', self.temperature, 0, MAX_TEMPERATURE)
    if not 0 < self.top_p <= 1:
      raise user_error('top_p', self.top_p, 'must be above 0 and at most 1')
    for name in ('guidance', 'image_guidance'):
      if getattr(self, name) is not None:
        check_range(name, getattr(self, name), 0, MAX_GUIDANCE)
    if not self.max_tokens and not self.images:
      raise user_error('max_tokens', 0, 'nothing is written, so say how many images there are')


@dataclasses.dataclass(frozen=True)
class Dialogue:
  """A dialogue that grows: all that it takes to go on with it.

  Attributes:
    sample: what was said and shown so far. Images that were drawn have the role ``target``.
    given: number of its first parts that were given, not answered.
    seed, number: keys of its tokens and noise: the same two give the same answer, whatever else is
      answered beside it.
    size: (height, width) of its images; None = of the last image before.
    draws: <BOV> was written, or forced: an image comes next.
    ended: why nothing follows, a key of ``ENDED`` or a sentence; '' while something does.
  """

  sample: Sample
  given: int
  seed: int = 0
  number: int = 0
  size: tuple[int, int] | None = None
  draws: bool = False
  ended: str = ''

  @classmethod
  def of(cls, sample: Sample, *, seed: int = 0, number: int = 0,
         size: tuple[int, int] | None = None) -> 'Dialogue':
    """A dialogue that is to be answered.

    Raises:
      UserError: it has no turn of the user at its end, an image is missing, or a seed that is out
        of range.
    """
    where = sample.origin or sample.id
    check_range(f'{where}: seed', seed, 0, MAX_SEED)
    if not sample.parts or sample.parts[-1].role in ('system', 'assistant', 'target'):
      raise user_error(where, sample.parts[-1].role if sample.parts else None, 'there is nothing '
                       "to answer; end it with the user's turn, a text or an image")
    for index, part in enumerate(sample.parts):
      if part.is_image and part.image is None:
        raise user_error(f'{where}: parts[{index}]', None, 'an image without pixels; give its file')
    sample = dataclasses.replace(sample, task='dialogue', origin=where)
    return cls(sample, len(sample.parts), seed, number, size)

  @property
  def answer(self) -> tuple[Part, ...]:
    """What was written and drawn."""
    return self.sample.parts[self.given:]

  @property
  def images(self) -> int:
    """How many images were drawn."""
    return sum(part.is_image for part in self.answer)

  def until(self, images: int) -> Sample:
    """The sample up to its image of that number, counted from 1; 0 = what was given."""
    ends = [self.given, *(index for index, part in enumerate(self.sample.parts, start=1)
                          if part.is_image and index > self.given)]
    return dataclasses.replace(self.sample, parts=self.sample.parts[:ends[images]])

  def grown(self, *parts: Part, **changes: object) -> 'Dialogue':
    """The dialogue with further parts."""
    sample = dataclasses.replace(self.sample, parts=(*self.sample.parts, *parts))
    return dataclasses.replace(self, sample=sample, **changes)


@dataclasses.dataclass(frozen=True)
class Event:
  """A part that was added to a dialogue, or its end.

  Attributes:
    index: of the dialogue among those that are answered.
    part: a text of the assistant, or an image uint8[H, W, 3] of role ``target``; None = the end.
    dialogue: as it is now. It can be kept, and gone on with, at every event.
  """

  index: int
  part: Part | None
  dialogue: Dialogue


@dataclasses.dataclass(frozen=True)
class Hands:
  """How a server's thread does the work of dialogues.

  Attributes:
    fixed: shape of what is read and written.
    run: calls a function that uses the devices, and returns what it returns.
    draw: requests -> the images of each.
  """

  fixed: Fixed
  run: Callable[[Callable[[], Any]], Any]
  draw: Callable[[Sequence[Request]], list[Images]]


def converse(system: System, params: Params, dialogues: Sequence[Dialogue], *, maker: ExampleMaker,
             config: ConfigDict, options: Options = Options(), mesh: Mesh | None = None,
             hands: Hands | None = None) -> Iterator[Event]:
  """Answers dialogues, those of a batch side by side, and tells every part as soon as it is there.

  Args:
    system, params, maker, config, mesh: as for ``generate``; ``config.sampling.rows`` dialogues
      are answered at once.
    dialogues: to be answered, from the start or from where an event left them.
    options: of the answers.
    hands: that read, write and draw; None = everything is done here. With them, ``params`` are
      as ``generate.placed`` returns them.

  Yields:
    The parts of each dialogue in their order, and its end.

  Raises:
    UserError: a system that writes no text, a dialogue longer than ``data.prompt_tokens``, an
      image that cannot be read, or a size that the models cannot draw.
  """
  check(system, dialogues, maker, config, options)
  mesh = mesh or make_mesh(ALL_DEVICES)
  params = params if hands else placed(system, params, config, mesh)
  for first in range(0, len(dialogues), config.sampling.rows):
    batch = _Batch(system, params, dialogues[first:first + config.sampling.rows], maker, config,
                   options, mesh, hands)
    for index, part in batch.answers():
      yield Event(first + index, part, batch.states[index])


def check(system: System, dialogues: Sequence[Dialogue], maker: ExampleMaker, config: ConfigDict,
          options: Options) -> None:
  """Raises what ``converse`` raises; needs no parameters."""
  check_writes(system, config)
  for dialogue in dialogues:
    request = _request(dialogue, dialogue.until(0), config, options)
    check_fits([request], system.layout, config.data.clean_roles)
    example_of(request.sample, maker, {})


class _Batch:
  """Dialogues that are answered side by side, in rounds of a text and an image each.

  A round depends on the dialogues before it alone, so an answer that goes on from a file takes the
  same course: it reads its rounds again and stops where nothing is known yet.
  """

  def __init__(self, system: System, params: Params, dialogues: Sequence[Dialogue],
               maker: ExampleMaker, config: ConfigDict, options: Options, mesh: Mesh,
               hands: Hands | None = None):
    self.states = list(dialogues)
    self._options, self._maker, self._config = options, maker, config
    self._kept = [{} for _ in dialogues]
    self._reader = Reader(
        system, params, maker, config, mesh, len(dialogues), temperature=options.temperature,
        top_p=options.top_p, max_tokens=options.max_tokens, fixed=hands and hands.fixed)
    self._run = hands.run if hands else lambda function: function()
    self._draw = hands.draw if hands else functools.partial(
        generate, system, params, maker=maker, config=config, steps=options.steps, mesh=mesh)

  def answers(self) -> Iterator[tuple[int, Part | None]]:
    """Numbers of dialogues with the parts that were added, None at the end of one."""
    for images in itertools.count():
      if all(state.ended for state in self.states):
        return
      if self._options.max_tokens:
        yield from self._read(images)
      yield from self._write(images)
      yield from self._add_images(images)

  def _read(self, images: int) -> Iterator[tuple[int, None]]:
    """All that come so far read up to their image of that number; one may have no room for it."""
    examples = {}
    for index, state in enumerate(self.states):
      if state.images < images:
        continue
      try:
        request = self._request(state, state.until(images))
        examples[index] = example_of(request.sample, self._maker, self._kept[index])
      except RecordError as error:
        if not state.ended:
          self.states[index] = dataclasses.replace(state, ended=str(error))
          yield index, None
    if examples:
      self._run(lambda: self._reader.read(examples))

  def _write(self, images: int) -> Iterator[tuple[int, Part | None]]:
    """Lets those write that have so many images, and no further one due."""
    due = {index: (state.seed, state.number) for index, state in self._at(images)
           if not state.draws}
    if self._options.max_tokens:
      drafts = self._run(lambda: self._reader.write(due)) if due else {}
    else:  # <BOV> alone
      drafts = dict.fromkeys(due, Draft('', 'image'))
    for index, draft in drafts.items():
      known = len(self.states[index].sample.parts)
      state = _behind(self.states[index], draft, self._options)
      state = self.states[index] = self._with_room(index, state)
      yield from ((index, part) for part in state.sample.parts[known:])
      if state.ended:
        yield index, None

  def _with_room(self, index: int, state: Dialogue) -> Dialogue:
    """The dialogue of that number, which ends where its next image has no room."""
    try:
      if state.draws:
        request = self._request(state, state.sample)
        example_of(request.sample, self._maker, self._kept[index])
    except RecordError as error:
      return dataclasses.replace(state, draws=False, ended=str(error))
    return state

  def _add_images(self, images: int) -> Iterator[tuple[int, Part]]:
    """Draws the image of that number for those that called for it."""
    due = [(index, state) for index, state in self._at(images) if state.draws]
    drawn = self._draw([self._request(state, state.sample) for _, state in due]) if due else []
    for (index, state), (image,) in zip(due, drawn, strict=True):
      part = Part('target', image=image)
      self.states[index] = state.grown(part, draws=False)
      yield index, part

  def _request(self, state: Dialogue, sample: Sample) -> Request:
    return _request(state, sample, self._config, self._options)

  def _at(self, images: int) -> list[tuple[int, Dialogue]]:
    """Those that have so many images and go on."""
    return [(index, state) for index, state in enumerate(self.states)
            if state.images == images and not state.ended]


def _behind(state: Dialogue, draft: Draft, options: Options) -> Dialogue:
  """The dialogue with what was written, and what comes next."""
  texts = (Part('assistant', text=draft.text),) if draft.text.strip() else ()
  wanted = options.images or draft.stop == 'image'
  draws = bool(wanted) and state.images < (options.images or options.max_images)
  return state.grown(*texts, draws=draws, ended='' if draws else draft.stop)


def _request(state: Dialogue, sample: Sample, config: ConfigDict, options: Options) -> Request:
  """A request for an image behind the sample, worded as training words it."""
  shown = [part.image for part in sample.images]
  size = state.size or default_size(config, shown[-1:], shown, sample.origin)
  asked = dataclasses.replace(sample, parts=(*sample.parts, Part('target', loss=True, size=size)))
  return request_of(config, tasks.worded(asked, 'dialogue', config.data), seed=state.seed,
                    number=state.number * MAX_OUTPUTS + state.images, guidance=options.guidance,
                    image_guidance=options.image_guidance)
