"""Runs a recipe: inputs in chunks through its stages to shards, each whole or not at all.

A chunk of inputs is the unit of work. It passes all stages up to the next ``Group`` and is written
under its final name when it is whole, with its tally behind it; a killed run goes on with what has
no tally. A ``Group`` ends a *phase*: the records before it are divided by the hash of their key
into buckets, which are the chunks of the next phase. What a chunk becomes depends on it alone, so
that engines, workers and kills do not change a byte. Nothing but ``core.files`` writes, so that the
folder may be in the bucket of a cloud.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

from array_record.python import array_record_module
from etils import epath

from jaxgen.core.errors import RecordError
from jaxgen.core.errors import user_error
from jaxgen.core.files import AT_ONCE
from jaxgen.core.files import placed
from jaxgen.core.files import write_text
from jaxgen.core.files import writing
from jaxgen.curation import models
from jaxgen.curation.finishing import finished
from jaxgen.curation.leakage import Known
from jaxgen.curation.leakage import unleaked
from jaxgen.curation.recipe import Group
from jaxgen.curation.recipe import load_recipe
from jaxgen.curation.recipe import Siblings
from jaxgen.curation.recipe import Stage
from jaxgen.curation.recipe import Use
from jaxgen.curation.record import Dropped
from jaxgen.curation.record import Lineage
from jaxgen.curation.record import Record
from jaxgen.curation.record import UNKNOWN
from jaxgen.curation.tally import EXAMPLES
from jaxgen.curation.tally import SHOWING
from jaxgen.curation.tally import StageTally
from jaxgen.curation.tally import Tally
from jaxgen.curation.waiting import gathered
from jaxgen.curation.waiting import spill
from jaxgen.data.decode import DecodeError
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
    out: folder of the shards, here or in a bucket.
    models: name -> what it is, over those of the recipe.
    licence: of inputs that say nothing, over that of the recipe.
    known: what benchmarks test on, which is kept out.
    fetch: what the run calls itself to servers of the web; '' asks none.
    workers: processes at once, which share the rates of models.
  """

  recipe: str
  source: str
  out: str
  models: tuple[tuple[str, str], ...] = ()
  licence: str = ''
  known: Known = dataclasses.field(default_factory=Known)
  fetch: str = ''
  workers: int = 1


class Worker:
  """A job opened in one process: ``worker(phase, chunk)`` makes one chunk.

  Attributes:
    recipe: what it does.
    stages: those of the recipe, what reads the images, and what keeps out benchmarks.
    phases: number of chunks of each phase.
  """

  def __init__(self, job: Job):
    self.job, self.out = job, epath.Path(job.out)
    self.recipe, self._digest = load_recipe(job.recipe)
    if unknown := sorted(dict(job.models).keys() - self.recipe.models.keys()):
      raise user_error('--model', unknown[0], f'no such model in {job.recipe}; it has '
                       f'{", ".join(sorted(self.recipe.models)) or "none"}')
    self._specs = {name: f'web:{job.fetch}' if spec == 'web:' else spec
                   for name, spec in (dict(self.recipe.models) | dict(job.models)).items()}
    self._models = {name: models.open_model(
        name, spec, self.out / 'calls', self.recipe.limits.get(name), job.workers)
                    for name, spec in self._specs.items()}
    self._inputs = self.recipe.read(job.source)
    if not len(self._inputs):
      raise user_error('--in', job.source, 'nothing in it that the recipe reads')
    self.stages = [*self.recipe.stages, Stage(finished)]
    if job.known.digest():
      self.stages.append(Stage(unleaked, known=Use('benchmarks')))
    self._bound: dict[str, Any] = {**self._models, 'benchmarks': job.known}
    self._phases = _phases(self.stages)
    first = -(-len(self._inputs) // self.recipe.chunk)
    self.phases = [first, *[self.recipe.buckets] * (len(self._phases) - 1)]

  def described(self) -> dict[str, Any]:
    """What must not change between a run and the one that goes on with it."""
    count = len(self._inputs)
    probes = [_record(self._input(number * count // _PROBES)).id
              for number in range(min(count, _PROBES))]
    return dict(
        recipe=self._digest, inputs=count,
        probes=hashlib.sha256(json.dumps(probes).encode()).hexdigest()[:16],
        licence=self.job.licence or self.recipe.licence, chunk=self.recipe.chunk,
        buckets=self.recipe.buckets,
        models={name: models.identity(spec) for name, spec in self._specs.items()},
        benchmarks=self.job.known.digest(),
        stages=[stage.described() for stage in self.stages])

  def tally_file(self, phase: int, chunk: int) -> epath.Path:
    """Where the tally of a chunk is; the chunk is done when it is there."""
    return self.out / 'chunks' / f'{phase}-{chunk:05d}.json'

  def left(self, phase: int) -> list[int]:
    """The chunks of a phase that are still to be made."""
    chunks = range(self.phases[phase])
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
      done = pool.map(lambda chunk: self.tally_file(phase, chunk).exists(), chunks)
      return [chunk for chunk, is_done in zip(chunks, done) if not is_done]

  def computes(self, phase: int) -> bool:
    """Whether a stage of a phase runs a model on the devices of its worker."""
    used = {value.name for stage in self._phases[phase] for value in stage.parameters.values()
            if isinstance(value, Use)}
    return any(models.runs_here(self._specs[name]) for name in used & self._specs.keys())

  @property
  def names(self) -> list[str]:
    """Of all stages."""
    return [stage.name for stage in self.stages]

  def clean(self) -> None:
    """Removes what only a run that goes on needs."""
    if (self.out / 'work').exists():
      (self.out / 'work').rmtree()

  def __call__(self, phase: int, chunk: int) -> None:
    """Makes one chunk, of whatever the phase before has left.

    Raises:
      UserError: a limit of a model is spent, or nothing can be written.
    """
    showing = chunk % max(self.phases[phase] // SHOWING, 1) == 0
    tally = Tally.of(len(self.stages), EXAMPLES if showing else 0)
    made = self._made(phase, chunk, tally)
    if phase + 1 < len(self.phases):
      group = self._phases[phase + 1][0]
      assert isinstance(group, Group)
      spill(self._folder(phase, chunk), group, self.recipe.buckets, made)
    else:
      self._shard(chunk, made, tally)
    write_text(self.tally_file(phase, chunk), json.dumps(dataclasses.asdict(tally)))

  def _made(self, phase: int, chunk: int, tally: Tally) -> Iterator[Record]:
    """What the stages of a phase make of a chunk, in the order of the input."""
    offset = sum(len(stages) for stages in self._phases[:phase])
    steps = [(stage, stage.bound(self._bound)) for stage in self._phases[phase]]

    def flow(given: Record | Dropped | list[Record], own: Tally) -> Iterator[Record]:
      if isinstance(given, Dropped):  # could not even be read
        own.stages[offset].entered += 1
        own.stages[offset].add(given)
        return iter(())
      stream: Iterator[Any] = iter([given])
      for (stage, step), count in zip(steps, own.stages[offset:]):
        stream = _counted(stage, step, stream, count)
      return stream

    def whole(given: Record | Dropped | list[Record]) -> tuple[list[Record], Tally]:
      own = tally.behind()
      return list(flow(given, own)), own

    if self.recipe.threads == 1:
      for given in self._given(phase, chunk):
        yield from flow(given, tally)
      return
    with concurrent.futures.ThreadPoolExecutor(self.recipe.threads) as pool:
      inputs = self._given(phase, chunk)
      for batch in iter(lambda: list(itertools.islice(inputs, 2 * self.recipe.threads)), []):
        for made, own in pool.map(whole, batch):
          tally.merge(own)
          yield from made

  def _given(self, phase: int, chunk: int) -> Iterator[Any]:
    if phase:
      yield from gathered([self._folder(phase - 1, before) / f'{chunk:05d}'
                           for before in range(self.phases[phase - 1])])
      return
    start = chunk * self.recipe.chunk
    for index in range(start, min(start + self.recipe.chunk, len(self._inputs))):
      yield self._input(index)

  def _input(self, index: int) -> Record | Dropped:
    """One input, with a licence where anybody has said one."""
    try:
      given = self._inputs[index]
    except RecordError as error:
      return Record(f'input {index}', {}, Lineage(error.where)).drop(BROKEN, error=error.reason)
    licence = given.lineage.licence
    if licence == UNKNOWN:
      licence = self.job.licence or self.recipe.licence or UNKNOWN
    return dataclasses.replace(given, lineage=dataclasses.replace(given.lineage, licence=licence))

  def _folder(self, phase: int, chunk: int) -> epath.Path:
    return self.out / 'work' / f'{phase}-{chunk:05d}'

  def _shard(self, chunk: int, made: Iterator[Record], tally: Tally) -> None:
    """Writes samples with their lineage; a chunk that leaves none has no file."""
    name = f'data-{chunk:05d}-of-{self.phases[-1]:05d}.arrayrecord'
    with placed(self.out / name) as partial, contextlib.ExitStack() as stack:
      with writing(self.job.out):
        # Groups of one record, because training reads single records in random order.
        writer = array_record_module.ArrayRecordWriter(str(partial), 'group_size:1')
        stack.callback(writer.close)
      for each in made:
        lineage = dataclasses.asdict(each.lineage) | dict(recipe=self._digest)
        data = to_bytes(dataclasses.replace(each['sample'], lineage=lineage))
        with writing(self.job.out):
          writer.write(data)
        licence = each.lineage.licence
        tally.licences[licence] = tally.licences.get(licence, 0) + 1
      with writing(self.job.out):
        stack.close()
      if not tally.licences:
        partial.unlink()


def _record(made: Record | Dropped) -> Record:
  return made.record if isinstance(made, Dropped) else made


def _phases(stages: Sequence[Stage]) -> list[list[Stage]]:
  """The stages divided before each ``Group``."""
  phases: list[list[Stage]] = [[]]
  for stage in stages:
    if isinstance(stage, Group):
      phases.append([])
    phases[-1].append(stage)
  return phases


def _counted(stage: Stage, step: Any, stream: Iterator[Any], count: StageTally
             ) -> Iterator[Record]:
  """What a stage makes of a stream, counted; drops and what cannot be read end here."""
  given: Record | None = None

  def entering() -> Iterator[Any]:
    nonlocal given
    for each in stream:
      group = each if isinstance(each, list) else [each]
      given = group[0]
      count.entered += len(group)
      yield each

  for argument in [entering()] if isinstance(stage, Siblings) else entering():
    for made in _results(stage, step, argument, lambda: given):
      count.add(made)
      if isinstance(made, Record):
        yield made


def _results(stage: Stage, step: Any, argument: Any, given: Callable[[], Record | None]
             ) -> Iterator[Record | Dropped]:
  """What a stage gives for one argument; ``given`` is the record that it was given last."""
  nothing = not isinstance(stage, Siblings)
  try:
    made = step(argument)
    if not isinstance(made, Record | Dropped | Iterable):
      raise TypeError(f'{stage.name} gave {type(made).__name__}, no record and no drop')
    for each in [made] if isinstance(made, Record | Dropped) else made:
      nothing = False
      yield each
  except (DecodeError, RecordError) as error:
    yield given().drop(BROKEN, error=str(error)[:200])
    return
  except Exception as error:
    if not hasattr(error, '__notes__'):
      error.add_note(f'in stage {stage.name} of record {getattr(given(), "id", "none")}')
    raise
  if nothing:
    yield given().drop('nothing came of it')
