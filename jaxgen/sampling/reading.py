"""Dialogues as the language model reads them, piece by piece with a KV cache, and what it writes.

A text that was written is read again together with the image behind it, in the tokens that training
gives them. So what has been read depends on the dialogue alone, not on how it came about, and one
that goes on from a file goes on in the same way.
"""

import dataclasses
import zlib
from collections.abc import Mapping
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jaxgen.core.errors import user_error
from jaxgen.core.types import Params
from jaxgen.core.types import Prompt
from jaxgen.data.dialects import DIALECTS
from jaxgen.data.example import Example
from jaxgen.data.examples import ExampleMaker
from jaxgen.data.packing import RowShape
from jaxgen.data.packing import pack
from jaxgen.models.encoders import generate as language
from jaxgen.sampling.batching import least_row
from jaxgen.sampling.batching import power_of_two
from jaxgen.sampling.batching import rows_for
from jaxgen.sharding import partition
from jaxgen.sharding.rules import with_changes
from jaxgen.systems.base import System

_TEXT = zlib.crc32(b'text') >> 1  # keeps keys of tokens apart from those of images


def check_writes(system: System, config: ConfigDict) -> None:
  """Raises a ``UserError`` unless the system of the config can go on with a dialogue."""
  if not writes(system):
    raise user_error('config.system', config.system, 'writes no text, so it cannot go on with a '
                     'dialogue; draw from it with --prompt or --job')


def writes(system: System) -> bool:
  """Whether the system has a language model that sees images and goes on behind them."""
  layout = system.layout
  return 'head' in system.reads and layout.vision is not None and DIALECTS[layout.dialect].opens


@dataclasses.dataclass(frozen=True)
class Draft:
  """What the language model wrote in one go.

  Attributes:
    text: without special tokens.
    stop: what came behind it: ``image`` (<BOV>), ``end``, or ``cut`` where it was too long.
  """

  text: str
  stop: str


@dataclasses.dataclass(frozen=True)
class Fixed:
  """One shape of all that is read and written, so that no program is compiled on the way.

  Attributes:
    row: sizes of a prompt.
    rows: of a batch.
    max_tokens: of a text at the most.
  """

  row: RowShape
  rows: int
  max_tokens: int


class Reader:
  """Reads the dialogues of a batch, each in a row of its own, and writes what follows.

  Args:
    system, params, maker, config: of the run; the parameters as ``generate.placed`` returns them.
    mesh: that rows are spread over.
    dialogues: how many there are.
    temperature, top_p, max_tokens: of the texts; see ``models.encoders.generate.generate``.
    fixed: shape of all programs; None = as small as each needs to be. Where it is given, dialogues
      are read from their beginnings each time.
  """

  def __init__(self, system: System, params: Params, maker: ExampleMaker, config: ConfigDict,
               mesh: Mesh, dialogues: int, *, temperature: float, top_p: float, max_tokens: int,
               fixed: Fixed | None = None):
    group, = system.reads['head']
    self._model, self._params, self._maker = system.models[group], params[group], maker
    self._mesh, self._table = mesh, with_changes(config.mesh.rules)
    self._longest = config.data.prompt_tokens
    self._rows = fixed.rows if fixed else rows_for(dialogues, partition.row_ways(mesh))
    assert dialogues <= self._rows, (dialogues, self._rows)
    self._fixed, self._most = fixed, max_tokens
    self._sampling = dict(temperature=temperature, top_p=top_p,
                          max_new=fixed.max_tokens if fixed else max_tokens)
    self._begins = int(DIALECTS[system.layout.dialect].begins)
    self._state: language.DecodeState | None = None
    self._known = [np.zeros((0, 2), np.int32)] * self._rows

  def read(self, examples: Mapping[int, Example]) -> None:
    """Reads on.

    Args:
      examples: number of a dialogue -> a request for its next image. What is read of it is its
        prompt, without the <BOV> that it may end with. The dialogue has grown since it was read
        before: where its prompt begins with the same tokens, only the rest is read.
    """
    wanted = {row: self._words(example) for row, example in examples.items()}
    grown = all(np.array_equal(words[:len(self._known[row])], self._known[row])
                for row, words in wanted.items())
    if self._state is not None and grown and not self._fixed:
      prompt = self._prompt(examples, wanted, [len(words) for words in self._known])
      needed = int(self._state.used) + prompt.tokens.shape[1] + self._sampling['max_new']
      if needed <= self._state.slots:
        with partition.scope(self._mesh, self._table):
          self._state = language.append(self._model, self._params, self._state, prompt)
        self._remember(wanted)
        return
    # The cache is full, or the texts are cut into other tokens now: from the beginning.
    prompt = self._prompt(examples, wanted, [0] * self._rows)
    slots = prompt.tokens.shape[1] + self._sampling['max_new']
    slots = slots if self._fixed else 2 * power_of_two(slots)
    with partition.scope(self._mesh, self._table):
      self._state = language.read(self._model, self._params, prompt, slots=slots)
    self._known = [words[:0] for words in self._known]
    self._remember(wanted)

  def write(self, keys: Mapping[int, tuple[int, int]]) -> dict[int, Draft]:
    """Writes behind what was read, up to <BOV>, the end of the turn, or a limit.

    Args:
      keys: number of each dialogue that is to go on -> seed and number that its tokens are drawn
        by. They depend on nothing else but what was read of it.

    Returns:
      Number of a dialogue -> what was written.
    """
    seeds, numbers = np.zeros((2, self._rows), np.uint32)
    active = np.zeros(self._rows, bool)
    for row, (seed, number) in keys.items():
      seeds[row], numbers[row], active[row] = seed, number, True
    tokenizer = self._maker.tokenizer
    with partition.scope(self._mesh, self._table):
      tokens, _, lengths = language.continue_from(
          self._model, self._params, self._state, stop_ids=(tokenizer.bov, tokenizer.end),
          rng=_keys(seeds, numbers), active=jnp.asarray(active), limit=self._most,
          **self._sampling)
    tokens, lengths = np.asarray(tokens), np.asarray(lengths)
    rooms = {row: self._longest - self._begins - len(self._known[row]) for row in keys}
    return {row: self._draft(tokens[row, :lengths[row]], min(room, self._most))
            for row, room in rooms.items()}

  def _draft(self, tokens: np.ndarray, room: int) -> Draft:
    """Of the tokens that were written, those that the row has room for."""
    tokenizer, stop = self._maker.tokenizer, 'cut'
    if len(tokens) and tokens[-1] in (tokenizer.bov, tokenizer.end):
      stop, tokens = 'image' if tokens[-1] == tokenizer.bov else 'end', tokens[:-1]
    if len(tokens) > room:
      stop, tokens = 'cut', tokens[:max(room, 0)]
    # No sample holds zero bytes, which a model may write all the same.
    return Draft(tokenizer.decode(tokens.tolist()).replace('\0', ''), stop)

  def _words(self, example: Example) -> np.ndarray:
    """i32[n, 2]: the tokens that are read, and which image token stands where."""
    prompt = example.prompt
    count = np.count_nonzero(prompt.query_index < 0) - self._begins
    return np.stack([prompt.tokens, prompt.image_index], axis=1)[:count]

  def _prompt(self, examples: Mapping[int, Example], words: Mapping[int, np.ndarray],
              starts: Sequence[int]) -> Prompt:
    """The rows from the given tokens on; a row without example has none."""
    merge = self._maker.layout.vision.merge
    pieces = [[_piece(examples[row], start, len(words[row]), merge)] if row in examples else []
              for row, start in enumerate(starts)]
    shape = self._fixed.row if self._fixed else least_row(
        [piece for row in pieces for piece in row], self._maker.row_shape(sees=False),
        self._maker.layout)
    shape = dataclasses.replace(shape, segments=1, visual_tokens=0, towers={})
    prompt = pack(pieces, shape, self._maker.pad).batch.prompt
    return jax.device_put(prompt, partition.row_sharding(self._mesh, self._rows))

  def _remember(self, words: Mapping[int, np.ndarray]) -> None:
    self._known = [words.get(row, known) for row, known in enumerate(self._known)]


def _piece(example: Example, start: int, stop: int, merge: int) -> Example:
  """The tokens ``start`` to ``stop`` of a prompt and the images among them, counted anew."""
  prompt, patches = example.prompt, example.patches
  before = np.count_nonzero(prompt.image_index[:start] >= 0)  # image tokens
  first = before * merge**2  # patch
  stretch = {field.name: getattr(prompt, field.name)[start:stop]
             for field in dataclasses.fields(prompt)}
  stretch['positions'] = stretch['positions'] - (1 + prompt.positions[:start].max(initial=-1))
  index = stretch['image_index']
  stretch['image_index'] = np.where(index >= 0, index - before, -1)
  seen = patches.images[:first].max(initial=0)
  return Example(example.id, example.source, dataclasses.replace(prompt, **stretch),
                 dataclasses.replace(
                     patches, values=patches.values[first:], positions=patches.positions[first:],
                     images=patches.images[first:] - seen, maskable=patches.maskable[first:]))


@jax.jit
def _keys(seeds: jax.Array, numbers: jax.Array) -> jax.Array:
  """key[B] of u32[B] seeds and numbers."""
  keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), _TEXT))(seeds)
  return jax.vmap(jax.random.fold_in)(keys, numbers)
