"""What ``jaxgen data`` does: pack a source, look into it, train a tokenizer."""

import collections
import dataclasses
import sys
import time
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from jaxgen.config import base_config
from jaxgen.core.errors import RecordError
from jaxgen.core.errors import user_error
from jaxgen.core.files import check_place
from jaxgen.data import tasks
from jaxgen.data.archive import write_archive
from jaxgen.data.buckets import best_bucket
from jaxgen.data.buckets import bucket_set
from jaxgen.data.decode import decode
from jaxgen.data.decode import DecodeError
from jaxgen.data.decode import image_size
from jaxgen.data.images import Given
from jaxgen.data.images import plan_sizes
from jaxgen.data.images import Rules
from jaxgen.data.sample import Sample
from jaxgen.data.shapes.source import parse_settings
from jaxgen.data.shapes.source import texts
from jaxgen.data.sources import open_source
from jaxgen.data.sources import Source
from jaxgen.data.sources.base import Names
from jaxgen.data.sources.base import Place
from jaxgen.data.sources.base import shortened
from jaxgen.data.sources.layouts import recognised
from jaxgen.data.tokenizer import train_tokenizer

# The fixed texts of ``config.data``, which a tokenizer must know too.
TEMPLATES = ('reconstruction_prompt', 'pair_prompt', 'edit_prompt', 'empty_prompt',
             'caption_prompt')


@dataclasses.dataclass(frozen=True)
class Opening:
  """What to open, as the flags of the command line say it; see ``open_source``."""

  kind: str = 'auto'
  path: str = ''
  split: str = 'train'
  limit: int = 0
  size: int = 0
  seed: int = 0
  fields: Mapping[str, Names] = dataclasses.field(default_factory=dict)
  root: str = ''

  def open(self) -> Source:
    """The source.

    Raises:
      UserError: no path, shapes without a limit and a size, or what ``open_source`` raises.
    """
    if self.kind == 'shapes':
      if not self.limit:
        raise user_error('--limit', 0, 'shapes have no end; say how many')
      if not (self.size or 'sizes' in self.fields):
        raise user_error('--size', 0, 'shapes have no size of their own; give the side in pixels')
    if self.kind != 'shapes' and not self.path:
      raise user_error('--path', '', 'name the folder or file of the data')
    return open_source(self.kind, self.path, split=self.split, limit=self.limit, size=self.size,
                       seed=self.seed, fields=self.fields, root=self.root)

  def layout(self) -> str:
    """Kind of the source, and which convention was recognised."""
    if self.kind != 'auto':
      return self.kind
    return recognised(Place(self.path, self.split, fields=self.fields, root=self.root))


def parse_fields(words: Sequence[str]) -> dict[str, Names]:
  """``--fields=ours=theirs`` as a mapping; commas separate several names of theirs.

  Raises:
    UserError: a word that is not of this form, or a name of ours twice.
  """
  fields: dict[str, Names] = {}
  for word in words:
    ours, sign, theirs = word.partition('=')
    names = tuple(name.strip() for name in theirs.split(','))
    if not (ours and sign and all(names)) or ours in fields:
      raise user_error('--fields', word, 'write OURS=THEIRS once for each name of ours, as '
                       'target=after, or inputs=left,right')
    fields[ours] = names[0] if len(names) == 1 else names
  return fields


def pack(opening: Opening, out: str, *, shards: int = 1) -> None:
  """``jaxgen data pack``: writes a source as ArrayRecord and prints what was written and skipped.

  Args:
    opening: the source.
    out: new folder.
    shards: number of files.
  """
  archive = write_archive(opening.open(), out, shards=shards, progress=Progress('packed'))
  print(f'{out}: {archive.samples} samples in {shards} file(s), {len(archive.skipped)} skipped')
  _print_bad(archive.skipped)


def inspect(opening: Opening, *, buckets: str = 'canonical',
            headers: bool = False) -> dict[str, object]:
  """``jaxgen data inspect``: prints and returns what a source holds and what would become of it.

  Args:
    opening: the source.
    buckets: set of sizes that targets would be brought to, see ``bucket_set``.
    headers: read sizes from the headers of files only; files that are cut short go unnoticed.

  Returns:
    What is printed: counts by task and role, sizes, caption lengths, buckets of the targets, and
    names of samples whose targets are enlarged, whose sources differ in shape from their target,
    and that cannot be read.
  """
  source = opening.open()
  survey = _Survey(Rules(bucket_set(buckets, '--buckets')), headers)
  progress = Progress('read')
  for index in range(len(source)):
    try:
      survey.add(source[index])
    except RecordError as error:
      survey.bad[error.where] = error.reason
    progress(index + 1, len(source))
  result = {'layout': opening.layout(), 'samples': len(source)} | survey.result()
  for name, value in result.items():
    if isinstance(value, dict) and name != 'bad':
      value = ', '.join(f'{key} {number}' for key, number in value.items())
    elif isinstance(value, list):
      value = f'{len(value)}' + (f': {shortened(value)}' if value else '')
    print(f'{name.replace("_", " "):16} {len(value) if name == "bad" else value}')
  _print_bad(result['bad'])
  return result


def tokenizer(opening: Opening, out: str, *, vocab: int = 512) -> None:
  """``jaxgen data tokenizer``: trains a small tokenizer on the texts of a source.

  The prompt templates of the config schema are learnt with them, so that they are cheap.

  Args:
    opening: the source; for shapes the texts of the drawn tasks that the path names (``all``).
    out: folder for the tokenizer.
    vocab: ids at the most.
  """
  check_place(out)
  captions = (texts(opening.path, parse_settings(opening.fields, opening.size or 64, '--fields'),
                    '--path')
              if opening.kind == 'shapes' else list(_captions(opening.open())))
  if not captions:
    raise user_error('--path', opening.path, 'no captions in it to train a tokenizer on; write the '
                     'caption of name.jpg into name.txt beside it')
  trained = train_tokenizer(tokenizer_texts(captions), vocab, out)
  sample = captions[len(captions) // 2]
  print(f'{out}: {trained.vocab_size} tokens from {len(captions)} captions; '
        f'{sample!r} takes {len(trained.encode(" " + sample))}')


def tokenizer_texts(captions: list[str]) -> list[str]:
  """What a tokenizer for these captions learns from: they, as prompts hold them, and the rest."""
  data = base_config().data
  fixed = [data[name].replace('{caption}', '') for name in TEMPLATES]
  # Repeated, so that the templates are merged before the rarer words of the captions.
  return [f' {caption}' for caption in captions] + fixed * max(len(captions) // 8, 1)


class Progress:
  """Prints one line that grows: count, rate and time left, at most twice a second.

  Args:
    verb: what is being done to the records.
  """

  def __init__(self, verb: str):
    self._verb, self._start, self._shown = verb, time.monotonic(), 0.0

  def __call__(self, done: int, total: int) -> None:
    now = time.monotonic()
    if now - self._shown < 0.5 and done < total:
      return
    self._shown = now
    rate = done / max(now - self._start, 1e-9)
    print(f'\r{self._verb} {done}/{total}  {rate:.0f}/s  {(total - done) / rate:.0f} s left ',
          end='\n' if done == total else '', file=sys.stderr, flush=True)


class _Survey:
  """Counts what the samples of a source hold.

  Args:
    rules: how their images would be fitted.
    headers: do not decode.

  Attributes:
    bad: name -> what is wrong, of each record that cannot be used.
  """

  def __init__(self, rules: Rules, headers: bool):
    self._rules, self._read = rules, image_size if headers else _decoded_size
    self._tasks: collections.Counter[str] = collections.Counter()
    self._sizes: dict[str, list[tuple[int, int]]] = collections.defaultdict(list)
    self._buckets: collections.Counter[tuple[int, int]] = collections.Counter()
    self._words: list[int] = []
    self._longest = ''
    self._without_text: list[str] = []
    self._enlarged: list[str] = []
    self._misaligned: list[str] = []
    self.bad: dict[str, str] = {}

  def add(self, sample: Sample) -> None:
    """Counts one sample; one with an unreadable image counts as bad and adds no sizes."""
    self._tasks[tasks.kind_of(sample)] += 1
    words = [len(part.text.split()) for part in sample.texts]
    if words and max(words) > max(self._words, default=0):
      self._longest = sample.id
    self._words += words
    if not any(part.text.strip() for part in sample.texts):
      self._without_text.append(sample.id)
    try:
      given = [Given(part.role, None if part.image is None else self._read(part.image), part.size)
               for part in sample.images]
    except DecodeError as error:
      self.bad[sample.origin or sample.id] = str(error)
      return
    for image in given:
      if image.size:
        self._sizes[image.role].append(image.size)
    self._plan(sample.id, given)

  def _plan(self, name: str, given: list[Given]) -> None:
    sized = [image for image in given if image.size]
    # A factor of 1: what the buckets are is checked where they meet a model.
    plans = plan_sizes([image._replace(wanted=None) for image in sized], self._rules, factor=1)
    if not all(plan.aligned for plan in plans):
      self._misaligned.append(name)
    targets = [image.size for image in sized if image.role == 'target']
    fitted = [best_bucket(size, self._rules.buckets) for size in targets]
    self._buckets.update(fitted)
    if any(size[0] < bucket[0] or size[1] < bucket[1] for size, bucket in zip(targets, fitted)):
      self._enlarged.append(name)

  def result(self) -> dict[str, object]:
    """What was counted, in the order in which it is printed."""
    images = {role: len(sizes) for role, sizes in sorted(self._sizes.items())}
    sides = {}
    for role, sizes in sorted(self._sizes.items()):
      sides[f'{role}_heights'] = _spread([height for height, _ in sizes])
      sides[f'{role}_widths'] = _spread([width for _, width in sizes])
    return {'tasks': dict(self._tasks.most_common()), 'images': images, **sides,
            'words': _spread(self._words), 'longest_text': self._longest,
            'without_text': self._without_text,
            'buckets': {f'{height}x{width}': count
                        for (height, width), count in self._buckets.most_common()},
            'enlarged': self._enlarged, 'misaligned': self._misaligned, 'bad': self.bad}


def _decoded_size(image) -> tuple[int, int]:
  return decode(image).shape[:2]


def _captions(source: Source) -> Iterator[str]:
  """All wordings of all texts; a record that cannot be read is named."""
  for index in range(len(source)):
    try:
      for part in source[index].texts:
        yield from part.variants or (part.text,)
    except RecordError as error:
      _print_bad({error.where: error.reason})


def _spread(values: list[int]) -> dict[str, int]:
  """Least, median and greatest; empty for no values."""
  if not values:
    return {}
  return {'min': int(min(values)), 'median': int(np.median(values)), 'max': int(max(values))}


def _print_bad(bad: dict[str, str]) -> None:
  for name, reason in bad.items():
    print(f'  skipped {name}: {reason}')
