"""What ``jaxgen data`` does: pack a source, look into it, train a tokenizer."""

import collections
import sys
import time
from collections.abc import Iterator

import numpy as np

from jaxgen.config import base_config
from jaxgen.core.errors import user_error
from jaxgen.data import shapes
from jaxgen.data.archive import write_archive
from jaxgen.data.buckets import best_bucket
from jaxgen.data.decode import DecodeError
from jaxgen.data.decode import decode
from jaxgen.data.sources import Source
from jaxgen.data.sources import open_source
from jaxgen.data.tokenizer import train_tokenizer

# The fixed texts of ``config.data``, which a tokenizer must know too.
TEMPLATES = ('reconstruction_prompt', 'pair_prompt', 'empty_prompt', 'caption_prompt')


def pack(kind: str, path: str, out: str, *, shards: int = 1, split: str = 'train', limit: int = 0,
         size: int = 0, seed: int = 0) -> None:
  """``jaxgen data pack``: writes a source as ArrayRecord and prints what was written and skipped.

  Args:
    kind, path, split, limit, size, seed: the source, as in ``open_source``.
    out: new folder.
    shards: number of files.
  """
  source = _open(kind, path, split, limit, size, seed)
  archive = write_archive(source, out, shards=shards, progress=Progress('packed'))
  print(f'{out}: {archive.samples} samples in {shards} file(s), {len(archive.skipped)} skipped')
  _print_bad(archive.skipped)


def inspect(kind: str, path: str, *, split: str = 'train', limit: int = 0, size: int = 0,
            seed: int = 0) -> dict[str, object]:
  """``jaxgen data inspect``: prints and returns counts, sizes, buckets, captions and bad files."""
  source = _open(kind, path, split, limit, size, seed)
  sizes, words, uncaptioned, bad = [], [], 0, {}
  buckets: collections.Counter[tuple[int, int]] = collections.Counter()
  progress = Progress('read')
  for index in range(len(source)):
    sample = source[index]
    words += [len(part.text.split()) for part in sample.texts]
    uncaptioned += not any(part.text.strip() for part in sample.texts)
    try:
      found = [decode(part.image).shape[:2] for part in sample.images]
      sizes += found
      buckets.update(best_bucket(image) for image in found)
    except DecodeError as error:
      bad[sample.origin or sample.id] = str(error)
    progress(index + 1, len(source))
  result = {'samples': len(source), 'images': len(sizes), 'without_caption': uncaptioned,
            'heights': _spread([size[0] for size in sizes]),
            'widths': _spread([size[1] for size in sizes]), 'caption_words': _spread(words),
            'buckets': {f'{height}x{width}': count
                        for (height, width), count in buckets.most_common()}, 'bad': bad}
  for name in ('samples', 'images', 'without_caption', 'heights', 'widths', 'caption_words'):
    print(f'{name:16} {result[name]}')
  print('nearest buckets ', ', '.join(f'{name}: {n}' for name, n in result['buckets'].items()))
  print(f'{"bad":16} {len(bad)}')
  _print_bad(bad)
  return result


def tokenizer(out: str, *, vocab: int = 512, kind: str = 'shapes', path: str = '',
              split: str = 'train', limit: int = 0) -> None:
  """``jaxgen data tokenizer``: trains a small tokenizer on the captions of a source.

  The prompt templates of the config schema are learnt with them, so that they are cheap.

  Args:
    out: folder for the tokenizer.
    vocab: ids at the most.
    kind, path, split, limit: the source; for shapes every possible caption is used.
  """
  if kind == 'shapes':
    captions = shapes.captions()
  else:
    source = open_source(kind, path, split=split, limit=limit)
    captions = list(_captions(source))
  if not captions:
    raise user_error('--path', path, 'no captions in it to train a tokenizer on')
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


def _open(kind: str, path: str, split: str, limit: int, size: int, seed: int) -> Source:
  if kind == 'shapes' and not (limit and size):
    raise user_error('--limit', limit, 'shapes have no end and no size; give --limit and --size')
  return open_source(kind, path, split=split, limit=limit, size=size, seed=seed)


def _captions(source: Source) -> Iterator[str]:
  for index in range(len(source)):
    yield from (part.text for part in source[index].texts)


def _spread(values: list[int]) -> dict[str, int]:
  """Least, median and greatest; empty for no values."""
  if not values:
    return {}
  return {'min': int(min(values)), 'median': int(np.median(values)), 'max': int(max(values))}


def _print_bad(bad: dict[str, str]) -> None:
  for name, reason in bad.items():
    print(f'  skipped {name}: {reason}')
