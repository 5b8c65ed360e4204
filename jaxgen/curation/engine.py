"""Runs a recipe: inputs in chunks through its stages to shards, each whole or not at all.

A chunk of inputs is the unit of work. It passes all stages up to the next ``Group`` and is written
under its final name when it is whole, with its tally behind it; a killed run goes on with what has
no tally. A ``Group`` ends a *phase*: the records before it are divided by the hash of their key
into buckets, which are the chunks of the next phase. What a chunk becomes depends on it alone, so
that engines, workers and kills do not change a byte.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import zlib
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

from array_record.python import array_record_module
from etils import epath

from jaxgen.core.errors import RecordError
from jaxgen.core.errors import user_error
from jaxgen.core.files import write_text
from jaxgen.core.files import writing
from jaxgen.curation import models
from jaxgen.curation import record as records
from jaxgen.curation.recipe import Group
from jaxgen.curation.recipe import load_recipe
from jaxgen.curation.recipe import Stage
from jaxgen.curation.record import Dropped
from jaxgen.curation.record import Record
from jaxgen.curation.record import UNKNOWN
from jaxgen.curation.tally import Tally
from jaxgen.data.decode import DecodeError
from jaxgen.data.sample import Sample
from jaxgen.data.sample import encoded
from jaxgen.data.sample import to_bytes

BROKEN = 'broken'  # reason of what a stage could not read
# Of what is sampled of the inputs to tell whether a run goes on with the same ones.
_PROBES = 64


@dataclasses.dataclass(frozen=True)
class Job:
  """What the command line says; every worker opens it by itself.

  Attributes:
    recipe: the file.
    source: ``--in``.
    out: folder of the shards.
    models: name -> what it is, over those of the recipe.
    licence: of inputs that say nothing, over that of the recipe.
    workers: processes at once, which share the rates of models.
  """

  recipe: str
  source: str
  out: str
  models: tuple[tuple[str, str], ...] = ()
  licence: str = ''
  workers: int = 1


class Worker:
  """A job opened in one process: ``worker(phase, chunk)`` makes one chunk.

  Attributes:
    phases: number of chunks of each phase.
  """

  def __init__(self, job: Job):
    self.job, self.out = job, epath.Path(job.out)
    self.recipe, self._digest = load_recipe(job.recipe)
    if unknown := sorted(dict(job.models).keys() - self.recipe.models.keys()):
      raise user_error('--model', unknown[0], f'no such model in {job.recipe}; it has '
                       f'{", ".join(sorted(self.recipe.models)) or "none"}')
    self._specs = dict(self.recipe.models) | dict(job.models)
    self._inputs = self.recipe.read(job.source)
    if not len(self._inputs):
      raise user_error('--in', job.source, 'nothing in it that the recipe reads')
    self._stages = _phases(self.recipe.stages)
    first = -(-len(self._inputs) // self.recipe.chunk)
    self.phases = [first, *[self.recipe.buckets] * (len(self._stages) - 1)]

  def described(self) -> dict[str, Any]:
    """What must not change between a run and the one that goes on with it."""
    count = len(self._inputs)
    probes = [self._inputs[number * count // _PROBES].id for number in range(min(count, _PROBES))]
    return dict(
        recipe=self._digest, inputs=count,
        probes=hashlib.sha256(json.dumps(probes).encode()).hexdigest()[:16],
        licence=self.job.licence or self.recipe.licence, chunk=self.recipe.chunk,
        buckets=self.recipe.buckets,
        models={name: models.identity(spec) for name, spec in self._specs.items()},
        stages=[stage.described() for stage in self.recipe.stages])

  def tally_file(self, phase: int, chunk: int) -> epath.Path:
    """Where the tally of a chunk is; the chunk is done when it is there."""
    return self.out / 'chunks' / f'{phase}-{chunk:05d}.json'

  @property
  def names(self) -> list[str]:
    """Of all stages."""
    return [stage.name for stage in self.recipe.stages]

  def clean(self) -> None:
    """Removes what only a run that goes on needs."""
    if (self.out / 'work').exists():
      (self.out / 'work').rmtree()

  def __call__(self, phase: int, chunk: int) -> None:
    """Makes one chunk, of whatever the phase before has left.

    Raises:
      UserError: a limit of a model is spent, or nothing can be written.
    """
    tally = Tally.of(len(self.recipe.stages))
    made = self._made(phase, chunk, tally)
    with writing(self.job.out):
      if phase + 1 < len(self.phases):
        self._spill(phase, chunk, made)
      else:
        self._shard(chunk, made, tally)
    write_text(self.tally_file(phase, chunk), json.dumps(dataclasses.asdict(tally)))

  @functools.cached_property
  def _models(self) -> dict[str, models.Model]:
    return {name: models.open_model(
        name, spec, self.out / 'calls', self.recipe.limits.get(name), self.job.workers)
            for name, spec in self._specs.items()}

  def _made(self, phase: int, chunk: int, tally: Tally) -> Iterator[Record]:
    """What the stages of a phase make of a chunk, in the order of the input."""
    offset = sum(len(stages) for stages in self._stages[:phase])
    steps = [(stage.name, stage.bound(self._models)) for stage in self._stages[phase]]

    def passed(given: Record | list[Record]) -> tuple[list[Record], Tally]:
      own = Tally.of(len(self.recipe.stages))
      return list(_flow(given, steps, own, offset)), own

    with concurrent.futures.ThreadPoolExecutor(self.recipe.threads) as pool:
      given = self._given(phase, chunk)
      run = map if self.recipe.threads == 1 else pool.map
      for batch in iter(lambda: list(itertools.islice(given, 4 * self.recipe.threads)), []):
        for made, own in run(passed, batch):
          tally.merge(own)
          yield from made

  def _given(self, phase: int, chunk: int) -> Iterator[Any]:
    if phase:
      yield from self._groups(phase, chunk)
      return
    start = chunk * self.recipe.chunk
    for index in range(start, min(start + self.recipe.chunk, len(self._inputs))):
      given = self._inputs[index]
      licence = given.lineage.licence
      if licence == UNKNOWN:
        licence = self.job.licence or self.recipe.licence or UNKNOWN
      yield dataclasses.replace(given, lineage=dataclasses.replace(
          given.lineage, licence=licence))

  def _groups(self, phase: int, bucket: int) -> Iterator[list[Record]]:
    """The records of one bucket by their keys."""
    group = self._stages[phase][0]
    assert isinstance(group, Group)
    by_key: dict[str, list[Record]] = {}
    for chunk in range(self.phases[phase - 1]):
      for found in _read_records(self._folder(phase - 1, chunk) / f'{bucket:05d}'):
        by_key.setdefault(group.key_of(found), []).append(found)
    for key in sorted(by_key):
      yield by_key.pop(key)

  def _folder(self, phase: int, chunk: int) -> epath.Path:
    return self.out / 'work' / f'{phase}-{chunk:05d}'

  def _spill(self, phase: int, chunk: int, made: Iterator[Record]) -> None:
    """Divides records by key; the folder gets its name when it is whole."""
    group = self._stages[phase + 1][0]
    assert isinstance(group, Group)
    folder = self._folder(phase, chunk)
    partial = folder.parent / f'.{folder.name}.new'
    for old in (folder, partial):
      if old.exists():
        old.rmtree()
    partial.mkdir(parents=True)
    with contextlib.ExitStack() as stack:
      files = [stack.enter_context((partial / f'{bucket:05d}').open('wb'))
               for bucket in range(self.recipe.buckets)]
      for each in made:
        data = records.to_bytes(each)
        bucket = zlib.crc32(group.key_of(each).encode()) % self.recipe.buckets
        files[bucket].write(len(data).to_bytes(8, 'little') + data)
    partial.rename(folder)

  def _shard(self, chunk: int, made: Iterator[Record], tally: Tally) -> None:
    """Writes samples; a chunk that leaves none has no file."""
    name = f'data-{chunk:05d}-of-{self.phases[-1]:05d}.arrayrecord'
    partial = self.out / f'.{name}.new'
    # Groups of one record, because training reads single records in random order.
    writer = array_record_module.ArrayRecordWriter(str(partial), 'group_size:1')
    with contextlib.closing(writer):
      for each in made:
        writer.write(to_bytes(self._sample(each)))
        licence = each.lineage.licence
        tally.licences[licence] = tally.licences.get(licence, 0) + 1
    if tally.licences:
      partial.replace(self.out / name)
    else:
      partial.unlink()

  def _sample(self, made: Record) -> Sample:
    """The sample of a record, with its images as bytes and its lineage."""
    sample = made.fields.get('sample')
    if not isinstance(sample, Sample):
      raise user_error(self.job.recipe, made.id, 'what the last stage makes must have a field '
                       '"sample", a Sample')
    parts = tuple(part if part.image is None else dataclasses.replace(
        part, image=encoded(part.image)) for part in sample.parts)
    lineage = dataclasses.asdict(made.lineage) | dict(recipe=self._digest)
    return dataclasses.replace(sample, id=made.id, parts=parts, lineage=lineage)


def _phases(stages: Sequence[Stage]) -> list[list[Stage]]:
  """The stages divided before each ``Group``."""
  phases: list[list[Stage]] = [[]]
  for stage in stages:
    if isinstance(stage, Group):
      phases.append([])
    phases[-1].append(stage)
  return phases


def _flow(given: Any, steps: Sequence[tuple[str, Any]], tally: Tally, offset: int
          ) -> Iterator[Record]:
  """Sends one record, or one group, through the steps, depth first."""
  if not steps:
    yield given
    return
  (name, step), *rest = steps
  own = tally.stages[offset]
  own.entered += len(given) if isinstance(given, list) else 1
  for made in _results(step, name, given):
    own.add(made)
    if isinstance(made, Record):
      yield from _flow(made, rest, tally, offset + 1)


def _results(step: Any, name: str, given: Any) -> Iterator[Record | Dropped]:
  """What a step gives for one record; what it cannot read is dropped."""
  first = given[0] if isinstance(given, list) else given
  empty = True
  try:
    made = step(given)
    for each in [made] if isinstance(made, Record | Dropped) else _iterated(made, name):
      empty = False
      yield each
  except (DecodeError, RecordError) as error:
    yield first.drop(BROKEN, error=str(error)[:200])
    return
  except Exception as error:
    error.add_note(f'in stage {name} of record {first.id}')
    raise
  if empty:
    yield first.drop('nothing came of it')


def _iterated(made: Any, name: str) -> Iterable[Record | Dropped]:
  if not isinstance(made, Iterable):
    raise TypeError(f'stage {name} gave {type(made).__name__}, no record and no drop')
  return made


def _read_records(file: epath.Path) -> Iterator[Record]:
  with file.open('rb') as stream:
    while size := stream.read(8):
      yield records.from_bytes(stream.read(int.from_bytes(size, 'little')))
