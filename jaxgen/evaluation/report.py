"""The report of a run or of consecutive runs: one HTML page and one JSON file.

Reads ``config.json``, ``metrics.jsonl``, ``evaluation*.json`` with its images and those of the
validations from each run's workdir, plus ``timings.jsonl`` and ``export/``. Nothing is recomputed;
missing files count as not done. Lines that a killed run has cut short are left out; a damaged file
is an error that names it.
"""

import dataclasses
import json
from typing import Any

from etils import epath

from jaxgen.checkpoints.weights import read_config
from jaxgen.config import from_json
from jaxgen.core.errors import user_error
from jaxgen.core.files import check_place
from jaxgen.core.files import read_json
from jaxgen.core.files import read_lines
from jaxgen.core.files import write_text
from jaxgen.evaluation import progress
from jaxgen.evaluation.page import render_page
from jaxgen.evaluation.sections import record

# What the report reads of each line, with the types.
_METRICS = {'step': int, 'loss': (int, float, type(None))}
SOURCE = '/loss_source/'  # what stands before the name of a source in the metrics
_TIMINGS = {'stage': str, 'seconds': (int, float)}


@dataclasses.dataclass(frozen=True)
class Stage:
  """One run, read from its workdir.

  Attributes:
    name: name of the folder.
    folder: the workdir.
    config: the parsed config.json.
    metrics: lines of metrics.jsonl, sorted by step.
    evaluation, untrained: the parsed evaluation files, or None.
    others: what the problems were given as or worded in -> the evaluation of it.
  """

  name: str
  folder: epath.Path
  config: dict[str, Any]
  metrics: list[dict[str, Any]]
  evaluation: dict[str, Any] | None
  untrained: dict[str, Any] | None
  others: dict[str, dict[str, Any]]

  @property
  def steps(self) -> int:
    return self.metrics[-1]['step'] if self.metrics else 0

  @property
  def goodput(self) -> float | None:
    """Share of wall time, over all starts, spent on useful steps; None before the first step."""
    return self.metrics[-1].get('goodput') if self.metrics else None

  @property
  def validation(self) -> dict[str, float]:
    """Metrics of the last validation."""
    return {name: values[-1] for name, (_, values) in progress.curves(self.metrics).items()}

  @property
  def losses(self) -> dict[str, float]:
    """Mean loss of each source over the last quarter of the steps, the easiest source first."""
    found: dict[str, list[float]] = {}
    for line in self.metrics:
      if line['step'] > 0.75 * self.steps:
        for name, value in line.items():
          if SOURCE in name:
            found.setdefault(name.partition(SOURCE)[2], []).append(value)
    means = {name: sum(values) / len(values) for name, values in found.items()}
    return dict(sorted(means.items(), key=lambda item: item[1]))


def write_report(workdir: str) -> str:
  """Writes ``report.html`` and ``summary.json`` into the workdir; returns the page's path.

  Args:
    workdir: the workdir of a run, or a folder whose subfolders are runs.

  Raises:
    UserError: there is no run in it, a file of it is damaged, or the report cannot be written.
  """
  root = epath.Path(workdir)
  check_place(root)
  stages = read_stages(root)
  summary = summarise(root, stages)
  page = root / 'report.html'
  write_text(page, render_page(root.name, stages, summary))
  write_text(root / 'summary.json', json.dumps(summary, indent=2))
  return str(page)


def read_stages(root: epath.Path, flag: str = '--workdir') -> list[Stage]:
  """The runs in a folder, ordered as in ``timings.jsonl``, else by when config.json was written.

  ``flag`` is what names the folder in an error.
  """
  timings = read_lines(root / 'timings.jsonl', _TIMINGS)
  turns = {line['stage']: turn for turn, line in enumerate(timings)}

  def age(folder: epath.Path) -> tuple[int, float]:
    return turns.get(folder.name, len(turns)), (folder / 'config.json').stat().mtime

  folders = [root] if (root / 'metrics.jsonl').exists() else sorted(
      (path.parent for path in root.glob('*/config.json')
       if (path.parent / 'metrics.jsonl').exists()), key=age)
  if not folders:
    raise user_error(flag, str(root), 'holds no metrics.jsonl, nor do its subfolders; '
                     'give the folder of a run, or of several')
  return [_read_stage(folder) for folder in folders]


def summarise(root: epath.Path, stages: list[Stage]) -> dict[str, Any]:
  """Summarises the runs; None for anything that was not done.

  Returns:
    ``score`` and ``score_untrained`` (six tasks and ``overall``, of the last run that was
    evaluated), ``seconds`` and ``stage_seconds`` (times of the stages including start-up, measured
    by the launch script), ``steps``, ``goodput``, ``losses`` and ``validation`` (of each
    run, see ``Stage``) and ``export`` (the PyTorch models that were written).
  """
  evaluated = [stage for stage in stages if stage.evaluation]
  best = evaluated[-1] if evaluated else None
  timings = read_lines(root / 'timings.jsonl', _TIMINGS)
  return dict(
      score=best.evaluation['score'] if best else None,
      score_untrained=best.untrained['score'] if best and best.untrained else None,
      seconds=sum(line['seconds'] for line in timings) if timings else None,
      stage_seconds={line['stage']: line['seconds'] for line in timings},
      steps={stage.name: stage.steps for stage in stages},
      goodput={stage.name: stage.goodput for stage in stages},
      losses={stage.name: stage.losses for stage in stages},
      validation={stage.name: stage.validation for stage in stages},
      export=_read_export(root / 'export'))


def _read_stage(folder: epath.Path) -> Stage:
  def scores(name: str) -> dict[str, Any] | None:
    return record(folder / f'{name}.json', 'score', 'samples')

  by_step = {line['step']: line for line in read_lines(folder / 'metrics.jsonl', _METRICS)}
  text = read_config(str(folder))
  from_json(text)  # known to be a config of ours, with all of its sections
  return Stage(folder.name, folder, json.loads(text), [by_step[step] for step in sorted(by_step)],
               scores('evaluation'), scores('evaluation_untrained'),
               {file.stem.removeprefix('evaluation_').replace('_', ' '): scores(file.stem)
                for file in sorted(folder.glob('evaluation_*.json'))
                if not file.stem.endswith('untrained')})


def _read_export(root: epath.Path) -> dict[str, Any] | None:
  """The models of an export: folder -> class and bytes; None if there are none."""
  models = {}
  for file in sorted(root.glob('*/config.json')):
    config = read_json(file, 'export again')
    models[file.parent.name] = {
        'class': config.get('_class_name') or config.get('model_type'),
        'bytes': sum(part.stat().length for part in file.parent.glob('*.safetensors'))}
  return models or None
