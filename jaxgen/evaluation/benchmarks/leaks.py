"""Whether a run was trained on what it is evaluated with (L127).

Sources are searched once for each benchmark, which takes long where they are large:
``leaks/NAME.json`` in the workdir keeps what was found, for as long as neither prompts nor sources
change.
"""

import dataclasses
import hashlib
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from jaxgen.core.errors import UserError
from jaxgen.core.errors import user_error
from jaxgen.core.files import read_json
from jaxgen.core.files import write_text
from jaxgen.data.hashes import NEAR
from jaxgen.data.leaks import held_of
from jaxgen.data.leaks import search
from jaxgen.data.sequences import open_spec
from jaxgen.data.sources import Source
from jaxgen.evaluation.benchmarks.base import Item
from jaxgen.evaluation.benchmarks.registry import benchmark
from jaxgen.evaluation.benchmarks.registry import read_items
from jaxgen.sampling.jobs import progress
from jaxgen.sampling.load import run_config

FOLDER = 'leaks'
NAMED = 5  # leaks that an error names
# Drawn without end from seeds, with held-out combinations of their own: nothing to search.
DRAWN = 'shapes'
# Kinds that make many samples of each image: the images are searched.
MADE = ('photos', 'subjects')


class Elsewhere(UserError):
  """The sources of a run are not on this machine."""


def digest(items: Sequence[Item]) -> str:
  """Of all prompts of a benchmark, so that versions of it are told apart."""
  text = json.dumps([(item.key, item.group, item.text) for item in items])
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def open_sources(config: ConfigDict) -> dict[str, Source]:
  """The sources of a config that can be searched, by name.

  Raises:
    Elsewhere: one that cannot be opened.
  """
  try:
    return {name: open_spec(_searched(spec), config, f'config.data.sources.{name}.path')
            for name, spec in sorted(config.data.sources.items()) if spec.kind != DRAWN}
  except UserError as error:
    raise Elsewhere(str(error)) from error


def find_leaks(sources: Mapping[str, Source], items: Sequence[Item], bits: int = NEAR
               ) -> dict[str, Any]:
  """Searches sources for items of a benchmark.

  Args:
    sources: by name.
    items: of a benchmark: their keys, prompts, and the images that they give.
    bits: by which the hashes of two images may differ.

  Returns:
    ``records`` and ``unreadable``, numbers of samples; ``count`` of leaks; ``leaks``, the first of
    them, each ``source, kind, item, sample, bits``.

  Raises:
    UserError: an image of the benchmark that cannot be read.
  """
  total: dict[str, Any] = dict(records=0, unreadable=0, count=0, leaks=[])
  if not sources:
    return total
  held = held_of(((item.key, (item.text,), (*item.source, *item.reference)) for item in items),
                 '--data')
  for name, source in sources.items():
    found = search(source, held, bits=bits, progress=progress(f'{name} searched'))
    for number in ('records', 'unreadable', 'count'):
      total[number] += getattr(found, number)
    total['leaks'] += [dict(source=name, **dataclasses.asdict(leak)) for leak in found.leaks]
  return total


def check_run(workdir: str, name: str, items: Sequence[Item], allow: bool = False
              ) -> int | None:
  """Searches the training data of a run, or reads what an earlier search has found.

  Args:
    workdir: of the run.
    name: of the benchmark.
    items: all of them.
    allow: leaks are counted and do not raise.

  Returns:
    The number of leaks; None where the sources are not on this machine, which it prints.

  Raises:
    UserError: the run was trained on items of the benchmark; it names the first samples.
  """
  try:
    found = _kept(workdir, name, items)
  except Elsewhere as error:
    print(f'{workdir}: its training data were not searched for items of {name}: {error}',
          file=sys.stderr, flush=True)
    return None
  if found['count'] and not allow:
    raise user_error('--benchmark', name, f'{workdir} was trained on it: {said(found)}; leave them '
                     f'out of the training data, or say --allow-leaks ({_file(workdir, name)} '
                     'names them all)')
  return found['count']


def search_command(name: str, data: str, *, workdir: str = '', config: ConfigDict | None = None
                   ) -> None:
  """``jaxgen data leaks``: prints what was searched.

  Args:
    name: of the benchmark.
    data: folder of its files.
    workdir: of a run, which keeps what is found; or ''.
    config: whose sources are searched otherwise.

  Raises:
    UserError: something leaks, or what ``check_run`` and ``open_sources`` raise.
  """
  with tempfile.TemporaryDirectory() as images:
    items = read_items(benchmark(name), data, images)
    found = (_kept(workdir, name, items) if config is None else
             find_leaks(open_sources(config), items))
  if found['count']:
    raise user_error('--benchmark', name, f'{found["count"]} leaks: {said(found)}')
  print(f'{name}: none of its {len(items)} items in {found["records"]} samples, '
        f'{found["unreadable"]} of which cannot be read')


def said(found: dict[str, Any]) -> str:
  """The first leaks in words."""
  first = [f'{leak["kind"]} of {leak["item"]} in {leak["source"]}: {leak["sample"]}'
           for leak in found['leaks'][:NAMED]]
  more = found['count'] - len(first)
  return ', '.join(first) + (f' and {more} more' if more else '')


def _kept(workdir: str, name: str, items: Sequence[Item]) -> dict[str, Any]:
  """What an earlier search has found, or what is found now."""
  file, config = _file(workdir, name), run_config(workdir)
  made_of = dict(prompts=digest(items), sources=_sources(config), bits=NEAR)
  if file.exists():
    record = read_json(file, 'remove it')
    if all(record.get(field) == value for field, value in made_of.items()):
      return record
  record = made_of | find_leaks(open_sources(config), items)
  write_text(file, json.dumps(record, indent=1, ensure_ascii=False))
  return record


def _searched(spec: ConfigDict) -> ConfigDict:
  if spec.kind not in MADE:
    return spec
  spec = spec.copy_and_resolve_references()
  spec.update(kind='auto', fields=() if spec.kind == 'photos' else spec.fields)
  return spec


def _file(workdir: str, name: str) -> epath.Path:
  return epath.Path(workdir) / FOLDER / f'{name}.json'


def _sources(config: ConfigDict) -> str:
  text = json.dumps([config.data.sources.to_json(sort_keys=True), config.data.image_size,
                     config.seed])
  return hashlib.sha256(text.encode()).hexdigest()[:16]
