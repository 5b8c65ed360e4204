"""Writes the texts and images of a sample as the tokens of one prompt, with loss flags."""

import dataclasses
import itertools
import re
from collections.abc import Sequence

import numpy as np

from jaxgen.core.errors import record_error
from jaxgen.core.errors import user_error
from jaxgen.data.dialects import Dialect
from jaxgen.data.sample import Part
from jaxgen.data.tokenizer import Tokenizer
from jaxgen.data.wordings import PLACEHOLDER

_SPECIAL = re.compile(r'(<\|\w+\|>)')


@dataclasses.dataclass(frozen=True)
class Tokens:
  """A sample's prompt; n tokens, queries included.

  Attributes:
    tokens: i32[n].
    loss_mask: f32[n], weight of the token's prediction from those before it, 0 = none.
    image_index: i32[n], which image token of the sample stands here, -1 for text. Image tokens
      are counted image by image in the order of the parts.
    query_index: i32[n], which learned query stands here, -1 for none.
    crop: leading tokens that the denoiser is not shown.
    preceding: number of tokens before the one that begins the image to be drawn (<BOV>), which is
      not in every prompt, and before queries.
  """

  tokens: np.ndarray
  loss_mask: np.ndarray
  image_index: np.ndarray
  query_index: np.ndarray
  crop: int
  preceding: int


@dataclasses.dataclass(frozen=True)
class _Piece:
  """A stretch of the prompt: text that is still to be encoded, or ids.

  Attributes:
    content: the text or the ids.
    loss: weight of each of its tokens.
    first_image_token: index of the first of its image tokens, -1 for text and single ids.
    run: neighbouring texts of one run are encoded as one string.
  """

  content: str | Sequence[int]
  loss: float = 0.0
  first_image_token: int = -1
  run: int = 0


def shown_images(parts: Sequence[Part], generate: bool) -> list[int]:
  """Indices of the parts whose images are written into the prompt.

  Args:
    parts: of the sample.
    generate: the prompt stops where the last target is to be drawn.
  """
  return [index for index, part in enumerate(parts[:_stop(parts, generate)])
          if part.is_image and part.seen]


def tokenize(parts: Sequence[Part], dialect: Dialect, tokenizer: Tokenizer,
             image_tokens: Sequence[int], queries: int, generate: bool, *, longest: int = 0,
             placeholders: bool = False, bov_weight: float = 1.0,
             where: str = 'prompt') -> Tokens:
  """Writes the prompt of a sample.

  Texts of the assistant with ``loss`` carry it, as does the end token behind them; turns of the
  system and the user, headers and images carry none. The token that begins an image of the
  assistant with ``loss`` carries ``bov_weight`` (L114).

  Args:
    parts: texts and images in reading order; images that are not seen are left out.
    dialect: how they are written.
    tokenizer: of the model that reads them.
    image_tokens: tokens of each image of ``shown_images``, in that order.
    queries: learned queries behind a prompt that the model goes on from.
    generate: the model is to go on where the prompt ends. Then the prompt stops before the last
      target, which it is to draw, or at its end with the assistant's turn open; without it, all
      turns are closed and there are no queries.
    longest: tokens that the denoiser is shown of a prompt without images, queries apart; a longer
      one loses its end, as in Qwen-Image. 0 = all.
    placeholders: ``<image_n>`` in a text stands for image n of the sample, counted from 1 over
      all its images; the first mention moves a written image there. Targets, images that are
      left out and further mentions stay as they are (L008, A03).
    bov_weight: see above.
    where: sample or field, for errors.

  Raises:
    UserError: a placeholder whose number no image has, a system turn in a dialect that crops its
      own, or a tokenizer without the tokens of the dialect.
  """
  shown = shown_images(parts, generate)
  assert len(shown) == len(image_tokens), 'one count for each image that is written'
  stop = _stop(parts, generate)
  if placeholders:
    written = _placed(parts, stop, shown, where)
  else:
    written = [_Written.of(part, shown.index(index) if index in shown else None)
               for index, part in enumerate(parts[:stop])]
  written = [part for part in written if part.content]
  system, crop = dialect.preamble(bool(shown))
  begins = [_Begin.of(parts[index], bov_weight) for index in shown]
  writer = _Writer(dialect, tokenizer, written, image_tokens, begins, where)
  pieces = writer.turns(system, crop, generate) if dialect.header else writer.joined(generate)
  bov = []
  if generate and dialect.begins and stop < len(parts):
    bov = [writer.begin(_Begin.of(parts[stop], bov_weight))[0]]
  most = crop + longest if longest and generate and not shown else None
  return _flatten(pieces, bov, tokenizer, queries if generate else 0, crop, most)


def _stop(parts: Sequence[Part], generate: bool) -> int:
  """How many parts the prompt has: those before the targets that are to be drawn in one pass.

  These are the last target and, where several outputs follow one another, the ones right before
  it; a target that was drawn before, which has no loss beside one that has, is given.
  """
  targets = [index for index, part in enumerate(parts) if part.role == 'target']
  if not generate or not targets:
    return len(parts)
  stop = targets[-1]
  while stop and parts[stop - 1].role == 'target' and parts[stop - 1].loss == parts[stop].loss:
    stop -= 1
  return stop


@dataclasses.dataclass(frozen=True)
class _Written:
  """A part as it is written.

  Attributes:
    role: whose turn it belongs to.
    content: texts, and for images their places in ``shown_images``; empty where nothing is left.
    is_text: the part is a text, with images in it or without.
    loss: its text, and the end of a turn that it closes, are to be predicted.
  """

  role: str
  content: Sequence[str | int]
  is_text: bool
  loss: bool

  @classmethod
  def of(cls, part: Part, image: int | None) -> '_Written':
    """A part on its own; ``image`` is its place in ``shown_images``, None where left out."""
    if not part.is_image:
      return cls(part.role, [part.text], True, part.loss and part.role == 'assistant')
    role = 'assistant' if part.role == 'target' else 'user'
    return cls(role, [] if image is None else [image], False, part.is_target)


@dataclasses.dataclass(frozen=True)
class _Begin:
  """How an image begins.

  Attributes:
    called: by the assistant, with <BOV>.
    loss: weight of <BOV>.
  """

  called: bool
  loss: float

  @classmethod
  def of(cls, part: Part, weight: float) -> '_Begin':
    return cls(part.role == 'target', weight if part.is_target else 0.0)


def _placed(parts: Sequence[Part], stop: int, shown: Sequence[int],
            where: str) -> list[_Written]:
  """The parts with images moved to where a text first mentions them."""
  images = [index for index, part in enumerate(parts) if part.is_image]
  moved: set[int] = set()  # indices of parts

  def split(text: str) -> list[str | int]:
    content: list[str | int] = []
    done = 0
    for match in PLACEHOLDER.finditer(text):
      number = int(match[1])
      if not 1 <= number <= len(images):
        raise record_error(where, match[0], f'the sample has {len(images)} images, counted from 1; '
                           'mend the number')
      index = images[number - 1]
      if index in shown and index not in moved and parts[index].role != 'target':
        moved.add(index)
        content += [text[done:match.start()], shown.index(index)]
        done = match.end()
    # Nothing is written for an empty text beside an image, which no tokenizer may mark.
    return [piece for piece in [*content, text[done:]] if piece != ''] or ['']

  texts = {index: split(part.text) for index, part in enumerate(parts[:stop])
           if not part.is_image}
  written = []
  for index, part in enumerate(parts[:stop]):
    stays = index in shown and index not in moved
    plain = _Written.of(part, shown.index(index) if stays else None)
    written.append(dataclasses.replace(plain, content=texts.get(index, plain.content)))
  return written


class _Writer:
  """Writes the parts of one sample in a dialect.

  Args:
    dialect: how to write.
    tokenizer: gives the ids of special tokens.
    written: the parts, each with some content.
    image_tokens: tokens of each image.
    begins: of each image.
    where: sample or field, for errors.
  """

  def __init__(self, dialect: Dialect, tokenizer: Tokenizer, written: Sequence[_Written],
               image_tokens: Sequence[int], begins: Sequence[_Begin], where: str):
    self._dialect, self._tokenizer, self._written = dialect, tokenizer, written
    self._image_tokens, self._begins, self._where = image_tokens, begins, where
    order = [image for part in written for image in part.content if isinstance(image, int)]
    self._numbers = {image: number for number, image in enumerate(order, start=1)}

  @property
  def image_ids(self) -> tuple[int, int, int]:
    """The ids that begin, fill and end an image."""
    ids = (self._tokenizer.image_start, self._tokenizer.image, self._tokenizer.image_end)
    if None in ids:
      raise user_error(self._where, None, 'has images, but the tokenizer has no tokens for them; '
                       'use the tokenizer of a model that sees images')
    return ids

  def begin(self, begin: _Begin) -> list[_Piece]:
    """What stands before the tokens of an image; <BOV>, where the assistant calls for it, first."""
    start, bov = self.image_ids[0], self._tokenizer.bov
    if not begin.called or bov in (None, start):
      return [_Piece([start], begin.loss)]
    return [_Piece([bov], begin.loss), _Piece([start])]

  def joined(self, generate: bool) -> list[_Piece]:
    """One part behind another, each encoded on its own; an answer that is over has its end."""
    pieces = []
    for run, part in enumerate(self._written):
      pieces += [dataclasses.replace(piece, run=run) for piece in self._part(part)]
      over = (not generate if run + 1 == len(self._written) else
              self._written[run + 1].role != 'assistant')
      if part.role == 'assistant' and over:
        pieces.append(_Piece([self._end()], float(part.loss)))
    return pieces

  def turns(self, system: str | None, crop: int, generate: bool) -> list[_Piece]:
    """Turn by turn, beginning with the dialect's system text where the sample has none."""
    turns = [(role, list(parts))
             for role, parts in itertools.groupby(self._written, lambda part: part.role)]
    turns = turns or [('user', [])]
    if turns[0][0] != 'system' and system is not None:
      turns.insert(0, ('system', [_Written('system', [system], True, False)]))
    elif turns[0][0] == 'system' and crop:
      raise record_error(self._where, turns[0][1][0].content[0], 'the denoiser was trained on a '
                         'system text of its own, which is cropped; leave this one out')
    goes_on = generate and self._dialect.opens
    if goes_on and turns[-1][0] != 'assistant':
      turns.append(('assistant', []))
    pieces = []
    for number, (role, parts) in enumerate(turns, start=1):
      pieces += self._literal(self._dialect.header.replace('{role}', role))
      for part in parts:
        pieces += self._part(part)
      if not (goes_on and number == len(turns)):
        pieces += self._literal(self._dialect.footer, float(bool(parts) and parts[-1].loss))
    return pieces

  def _part(self, part: _Written) -> list[_Piece]:
    pieces = []
    for content in part.content:
      pieces += ([_Piece(content, float(part.loss))] if isinstance(content, str)
                 else self._image(content))
    return pieces

  def _image(self, image: int) -> list[_Piece]:
    number = str(self._numbers[image])
    before, after = self._dialect.image.replace('{number}', number).split('{image}')
    _, token, end = self.image_ids
    return [*self._literal(before),
            *self.begin(self._begins[image]),
            _Piece([token] * self._image_tokens[image],
                   first_image_token=sum(self._image_tokens[:image])),
            _Piece([end]),
            *self._literal(after)]

  def _literal(self, text: str, loss: float = 0.0) -> list[_Piece]:
    """A text of the dialect; only its special tokens carry ``loss``."""
    return [_Piece([self._special(part)], loss) if _SPECIAL.fullmatch(part) else _Piece(part)
            for part in _SPECIAL.split(text) if part]

  def _end(self) -> int:
    if self._tokenizer.end is None:
      raise user_error(self._where, None, 'has an answer, but the tokenizer has no token that ends '
                       'one; use the tokenizer of a language model')
    return self._tokenizer.end

  def _special(self, name: str) -> int:
    index = self._tokenizer.backend.token_to_id(name)
    if index is None:
      raise user_error(self._where, None, f'the tokenizer lacks {name}, which the dialect of the '
                       'prompt needs; use the tokenizer of the model')
    return index


def _flatten(pieces: Sequence[_Piece], bov: Sequence[_Piece], tokenizer: Tokenizer, queries: int,
             crop: int, most: int | None) -> Tokens:
  """Encodes the texts and lays everything side by side.

  Args:
    pieces: the prompt.
    bov: the token that begins the image to be drawn, or nothing.
    tokenizer: of the texts.
    queries: their number behind it.
    crop: see ``Tokens``.
    most: tokens before the queries that are kept, from the first on; None = all.
  """
  tokens: list[int] = []
  losses: list[float] = []
  image_index: list[int] = []
  for (is_text, _), group in itertools.groupby(
      (*pieces, *bov), lambda piece: (isinstance(piece.content, str), piece.run)):
    if is_text:
      ids, weights = _encode(list(group), tokenizer)
      tokens += ids
      losses += weights
      image_index += [-1] * len(ids)
      continue
    for piece in group:
      count, first = len(piece.content), piece.first_image_token
      tokens += piece.content
      losses += [piece.loss] * count
      image_index += [-1] * count if first < 0 else range(first, first + count)
  text = len(tokens[:most])
  return Tokens(
      np.array(tokens[:most] + [tokenizer.pad] * queries, np.int32),
      np.array(losses[:most] + [0.0] * queries, np.float32),
      np.array(image_index[:most] + [-1] * queries, np.int32),
      np.array([-1] * text + list(range(queries)), np.int32),
      min(crop, text), min(text, len(tokens) - len(bov)))


def _encode(pieces: Sequence[_Piece], tokenizer: Tokenizer) -> tuple[list[int], list[float]]:
  """Ids and weights of neighbouring texts, encoded as one.

  A token that begins in one text and ends in the next has the weight of the one it begins in: at
  the end of a header, the model is given it.
  """
  ids, starts = tokenizer.encode_with_starts(''.join(piece.content for piece in pieces))
  bounds = np.cumsum([len(piece.content) for piece in pieces])
  # A token without characters of its own may start behind the last one.
  owners = np.minimum(np.searchsorted(bounds, starts, side='right'), len(pieces) - 1)
  return ids, [pieces[owner].loss for owner in owners]
