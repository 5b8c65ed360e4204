"""What ``jaxgen data show`` prints: the rows of a config exactly as the models will get them."""

import dataclasses
import html
import itertools
import json
from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from jaxgen.core import pages
from jaxgen.core.errors import user_error
from jaxgen.core.files import write_text
from jaxgen.core.types import Layout
from jaxgen.core.types import Vision
from jaxgen.data.decode import decode
from jaxgen.data.decode import image_size
from jaxgen.data.example import Example
from jaxgen.data.example import LatentImage
from jaxgen.data.example import Patches
from jaxgen.data.example import TokenizedPrompt
from jaxgen.data.examples import ExampleMaker
from jaxgen.data.mixture import Mixture
from jaxgen.data.packing import RowShape
from jaxgen.data.packing import pack
from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample
from jaxgen.data.sequences import open_sequences
from jaxgen.data.streams import Stream
from jaxgen.data.streams import Supply
from jaxgen.data.tokenizer import Tokenizer
from jaxgen.data.vision import NATIVE_MEAN
from jaxgen.data.vision import NATIVE_STD
from jaxgen.data.vision import SQUARE_MEAN
from jaxgen.data.vision import SQUARE_STD

THUMBNAIL = 160  # longest side in pixels
_STYLE = 'figure img { width: auto; min-width: 64px; }'


@dataclasses.dataclass(frozen=True)
class Shown:
  """One sample of a row.

  Attributes:
    sample: as its task has prepared it.
    example: what was made of it.
    source: name of its source.
  """

  sample: Sample
  example: Example
  source: str


def show(config: ConfigDict, layout: Layout, *, rows: int = 1, page: str = '') -> list[str]:
  """Prints and returns the description of the first rows of the first batch.

  Args:
    config: of the run.
    layout: sizes of its models.
    rows: how many rows, up to those of a batch.
    page: HTML file for the same with thumbnails; '' = none.

  Raises:
    UserError: whatever the loader raises for this config, or a page that cannot be written.
  """
  if not 1 <= rows <= config.train.rows:
    raise user_error('--rows', rows, f'use 1 to {config.train.rows}, the rows of a batch')
  maker = _Recorder.of(config, layout)
  found, bad = _first_rows(config, maker, rows)
  shape = maker.row_shape()
  lines, sections = list(bad), [_pre(bad)]
  for number, row in enumerate(found):
    head = _row_line(number, row, shape, maker.pad)
    lines.append(head)
    sections.append(f'<h2>{html.escape(head)}</h2>')
    for shown in row:
      text = describe(shown, maker)
      lines += [f'  {line}'.rstrip() for line in text]
      sections.append(_thumbnails(shown, maker) + _pre(text))
  print('\n'.join(lines))
  if page:
    write_text(page, pages.document('jaxgen data show', ''.join(sections), _STYLE))
    print(page)
  return lines


def describe(shown: Shown, maker: ExampleMaker) -> list[str]:
  """The description of one sample: its parts, its prompt, its images, its text towers."""
  sample, example = shown.sample, shown.example
  lines = [f'sample {sample.id}: source {shown.source}, task {sample.task}', '  parts']
  lines += [f'    {number:2}  {line}' for number, line in enumerate(_parts(shown, maker), start=1)]
  if maker.tokenizer:
    lines.append(f'  prompt: {len(example.prompt.tokens)} tokens')
    lines += _table(('tokens', 'positions', 'shown at', 'loss', 'content'),
                    _prompt(example.prompt, example.patches, maker))
  if example.images:
    lines.append(f'  denoiser: {example.visual_tokens} tokens')
    _, given = maker.uses(sample)
    factor = maker.layout.latent.factor
    lines += _table(('part', 'size', 'tokens', 'role', 'positions'), [
        (str(index + 1), _px(image.size), _by(image.size, factor), _use(image),
         _range(image.positions)) for index, image in zip(given, example.images, strict=True)])
  for group, prompt in example.towers.items():
    tokenizer, tokens = maker.towers[group].tokenizer, prompt.tokens[prompt.mask].tolist()
    words = list(tokens)
    while len(words) > 1 and words[-1] == words[-2] == tokenizer.pad:
      words.pop()
    read = _quoted(tokenizer.backend.decode(words, skip_special_tokens=False))
    more = f' and {len(tokens) - len(words)} more of the last' if len(words) < len(tokens) else ''
    lines += [f'  tower {group}: {len(tokens)} of {len(prompt.mask)} tokens, '
              f'{int(prompt.shown.sum())} shown at '
              f'{_range(prompt.state_positions[prompt.shown])}', f'    {read}{more}']
  return lines


class _Recorder(ExampleMaker):
  """An ``ExampleMaker`` that remembers which sample each example was made of."""

  def __init__(self, *args):
    super().__init__(*args)
    self.made: list[tuple[Example, Sample]] = []

  def __call__(self, sample: Sample, source: int = 0, kept: dict | None = None) -> Example:
    example = super().__call__(sample, source, kept)
    self.made.append((example, sample))
    return example

  def sample_of(self, example: Example) -> Sample:
    """The prepared sample of an example."""
    return next(sample for made, sample in self.made if made is example)


def _first_rows(config: ConfigDict, maker: _Recorder, rows: int
                ) -> tuple[list[list[Shown]], list[str]]:
  """The samples of the first rows as the loader fills them, and the records that are broken."""
  data = config.data
  mixture = Mixture({name: source.share for name, source in data.sources.items()}, config.seed,
                    data.interpolation)
  sequences = open_sequences(config, mixture.names, maker)
  supply = Supply(mixture, sequences, maker.row_shape(), config.train.rows,
                  skip=data.oversize == 'skip')
  found = []
  for number in range(rows):
    stream = Stream(number, supply, Stream.start(len(sequences), data.look_ahead))
    found.append([Shown(maker.sample_of(example), example, mixture.names[example.source])
                  for example in stream.fill(0.0)])
  bad = [f'skipped {bad.name}: {bad.reason}' for sequence in sequences
         for bad in sequence.bad.values()]
  return found, bad + [f'skipped {name}: {reason}' for name, reason in supply.oversize.items()]


def _row_line(number: int, row: Sequence[Shown], shape: RowShape, pad: int) -> str:
  """How far a row is filled; counted in the packed arrays."""
  batch = pack([[shown.example for shown in row]], shape, pad).batch
  filled = {'segments': int((batch.meta.sample_ids >= 0).sum()),
            'visual tokens': int((batch.visual.segments > 0).sum()),
            'prompt tokens': int((batch.prompt.segments > 0).sum()),
            'patches': int((batch.prompt.patch_images > 0).sum())}
  budgets = [f'{filled[name]} of {limit} {name}' + (
                 f' ({100 * (1 - filled[name] / limit):.0f} % padding)'
                 if filled[name] < limit and name != 'segments' else '')
             for name, limit in shape.limits().items()]
  return f'row {number}: {", ".join(budgets)}'


def _parts(shown: Shown, maker: ExampleMaker) -> Iterator[str]:
  """One line for each part of the prepared sample."""
  seen, given = maker.uses(shown.sample)
  for index, part in enumerate(shown.sample.parts):
    if not part.is_image:
      yield f'{part.role:10} {_quoted(part.text)}' + (', loss' if part.loss else '')
      continue
    uses = ['to be drawn' if part.image is None else f'{_px(image_size(part.image))} image']
    if index in seen:
      number = seen.index(index) + 1
      view = _view_size(shown.example.patches, number, maker.layout.vision)
      uses.append(f'language model sees {_px(view)} as image {number}' +
                  (', maskable' if part.maskable else ''))
    if index in given:
      image = shown.example.images[given.index(index)]
      uses.append(f'denoiser gets {_px(image.size)} as {_use(image)}')
    yield f'{part.role:10} ' + ', '.join(uses if uses[1:] else [*uses, 'not used'])


def _prompt(prompt: TokenizedPrompt, patches: Patches, maker: ExampleMaker
            ) -> Iterator[tuple[str, ...]]:
  """Rows of the table: stretches of the prompt that are alike in everything."""
  kinds = _kinds(prompt, patches, maker)
  keys = list(zip(kinds, prompt.loss_mask.tolist(), prompt.shown.tolist(), strict=True))
  start = 0
  for (kind, loss, is_shown), group in itertools.groupby(keys):
    stop = start + len(list(group))
    ids = prompt.tokens[start:stop].tolist()
    where = f'{start}' if stop - start == 1 else f'{start}..{stop - 1}'
    yield (where, _range(prompt.positions[start:stop]),
           _range(prompt.state_positions[start:stop]) if is_shown else '-',
           f'{loss:g}' if loss else '-', _content(kind, ids, maker.tokenizer))
    start = stop


def _kinds(prompt: TokenizedPrompt, patches: Patches, maker: ExampleMaker) -> list[str]:
  """What each token is: text, the name of a special token, image n, or queries."""
  special = {index: str(token.content)
             for index, token in maker.tokenizer.backend.get_added_tokens_decoder().items()}
  # Image number of every image token: the patches of a token lie in one image.
  vision = maker.layout.vision
  images = patches.images[::vision.merge**2] if vision else patches.images
  kinds = []
  for token, image, query in zip(prompt.tokens.tolist(), prompt.image_index, prompt.query_index):
    kinds.append('queries' if query >= 0 else f'image {images[image]}' if image >= 0 else
                 special.get(token, 'text'))
  return kinds


def _content(kind: str, ids: list[int], tokenizer: Tokenizer) -> str:
  if kind == 'text':
    return f'{_quoted(tokenizer.decode(ids))} ({len(ids)})'
  if kind == 'queries' or kind.startswith('image '):
    return f'<{kind}: {len(ids)}>'
  return kind * len(ids)


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]] | Sequence[tuple[str, ...]]
           ) -> list[str]:
  """Lines in columns that are as wide as they need to be."""
  cells = [head, *rows]
  widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
  return ['    ' + '  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
          for row in cells]


def _view_size(patches: Patches, number: int, vision: Vision) -> tuple[int, int]:
  """(height, width) in pixels of an image as the language model sees it."""
  rows, columns = patches.positions[patches.images == number].max(axis=0) + 1
  return int(rows) * vision.patch, int(columns) * vision.patch


def _view(patches: Patches, number: int, vision: Vision) -> np.ndarray:
  """uint8[H, W, 3]: an image put together from the patches that the language model gets."""
  own = patches.images == number
  values = patches.values[own].reshape(own.sum(), 3, -1, vision.patch, vision.patch)
  height, width = _view_size(patches, number, vision)
  canvas = np.zeros((height // vision.patch, width // vision.patch, 3, *values.shape[3:]))
  canvas[tuple(patches.positions[own].T)] = values[:, :, 0]  # [h, w, 3, patch, patch]
  pixels = canvas.transpose(0, 3, 1, 4, 2).reshape(height, width, 3)
  mean, std = ((SQUARE_MEAN, SQUARE_STD) if vision.kind == 'square' else
               (NATIVE_MEAN, NATIVE_STD))
  return np.round(255 * np.clip(pixels * std + mean, 0, 1)).astype(np.uint8)


def _thumbnails(shown: Shown, maker: ExampleMaker) -> str:
  """Every image of a sample: the original, the language model's and the denoiser's copy."""
  seen, given = maker.uses(shown.sample)
  figures = []
  for index, part in enumerate(shown.sample.parts):
    if not part.is_image:
      continue
    figures += _original(part, f'{index + 1} {part.role}')
    if index in seen:
      number = seen.index(index) + 1
      figures.append(_figure(_view(shown.example.patches, number, maker.layout.vision),
                             f'language model, image {number}'))
    if index in given:
      image = shown.example.images[given.index(index)]
      if image.pixels is not None:
        figures.append(_figure(image.pixels, f'denoiser, {_use(image)}'))
  return f'<div class="samples">{"".join(figures)}</div>'


def _original(part: Part, title: str) -> list[str]:
  return [] if part.image is None else [_figure(decode(part.image), title)]


def _figure(pixels: np.ndarray, title: str) -> str:
  return (f'<figure>{pages.picture(pixels, THUMBNAIL)}'
          f'<figcaption>{html.escape(title)}<br>{_px(pixels.shape[:2])}</figcaption></figure>')


def _pre(lines: Sequence[str]) -> str:
  text = html.escape('\n'.join(lines))
  return f'<div class="card"><pre>{text}</pre></div>' if lines else ''


def _use(image: LatentImage) -> str:
  return 'target' if image.is_target else 'clean latents'


def _px(size: Sequence[int]) -> str:
  return f'{size[0]}x{size[1]} px'


def _by(size: Sequence[int], factor: int) -> str:
  return f'{size[0] // factor}x{size[1] // factor}'


def _range(positions: np.ndarray) -> str:
  """First and last of i32[n, 3]."""
  if not len(positions):
    return '-'
  first, last = (f'({" ".join(map(str, row))})' for row in positions[[0, -1]].tolist())
  return first if first == last else f'{first}..{last}'


def _quoted(text: str) -> str:
  return json.dumps(text, ensure_ascii=False)
