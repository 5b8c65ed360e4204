"""The report of a run, or of the runs that follow one another: one HTML page and one JSON file.

Reads what the runs left in their workdirs (``config.json``, ``metrics.jsonl``,
``evaluation*.json`` with its images), ``timings.jsonl`` and ``export/``; computes nothing anew,
and takes what is not there yet as not done.
"""

import dataclasses
import json
from typing import Any

from etils import epath

from jaxgen.core.errors import user_error
from jaxgen.evaluation.page import render_page


@dataclasses.dataclass(frozen=True)
class Stage:
  """One run as its workdir tells it.

  Attributes:
    name: folder name.
    folder: the workdir.
    config: as JSON.
    metrics: lines of metrics.jsonl in the order of their steps.
    evaluation, untrained: evaluation records, or None.
  """

  name: str
  folder: epath.Path
  config: dict[str, Any]
  metrics: list[dict[str, Any]]
  evaluation: dict[str, Any] | None
  untrained: dict[str, Any] | None

  @property
  def steps(self) -> int:
    return self.metrics[-1]['step'] if self.metrics else 0

  @property
  def goodput(self) -> float | None:
    """Share of wall time, over all starts, that went into steps; None for a run without any."""
    return self.metrics[-1].get('goodput') if self.metrics else None


def write_report(workdir: str) -> str:
  """Writes ``report.html`` and ``summary.json`` into the workdir; returns the page's path.

  Args:
    workdir: a run, or a folder whose subfolders are runs.

  Raises:
    UserError: no run there.
  """
  root = epath.Path(workdir)
  stages = read_stages(root)
  summary = summarise(root, stages)
  page = root / 'report.html'
  page.write_text(render_page(root.name, stages, summary))
  (root / 'summary.json').write_text(json.dumps(summary, indent=2))
  return str(page)


def read_stages(root: epath.Path) -> list[Stage]:
  """The runs in a folder in the order of ``timings.jsonl``, else of the last change of configs."""
  turns = {line['stage']: turn for turn, line in enumerate(_lines(root / 'timings.jsonl'))}

  def age(folder: epath.Path) -> tuple[int, float]:
    return turns.get(folder.name, len(turns)), (folder / 'config.json').stat().mtime

  folders = [root] if (root / 'metrics.jsonl').exists() else sorted(
      (path.parent for path in root.glob('*/config.json')
       if (path.parent / 'metrics.jsonl').exists()), key=age)
  if not folders:
    raise user_error('--workdir', str(root), 'holds no metrics.jsonl, nor do its subfolders; '
                     'give the folder of a run, or of several')
  return [_read_stage(folder) for folder in folders]


def summarise(root: epath.Path, stages: list[Stage]) -> dict[str, Any]:
  """What the runs came to; None where something was not done.

  Returns:
    ``score`` and ``score_untrained`` (six tasks and ``overall``, of the last run that was
    evaluated), ``seconds`` (all stages with their start-up, as the launch script timed them),
    ``steps`` and ``goodput`` (of each run) and ``export`` (what was written for PyTorch).
  """
  evaluated = [stage for stage in stages if stage.evaluation]
  best = evaluated[-1] if evaluated else None
  timings = _lines(root / 'timings.jsonl')
  return dict(
      score=best.evaluation['score'] if best else None,
      score_untrained=best.untrained['score'] if best and best.untrained else None,
      seconds=sum(line['seconds'] for line in timings) if timings else None,
      stage_seconds={line['stage']: line['seconds'] for line in timings},
      steps={stage.name: stage.steps for stage in stages},
      goodput={stage.name: stage.goodput for stage in stages},
      export=_read_export(root / 'export'))


def _read_stage(folder: epath.Path) -> Stage:
  by_step = {line['step']: line for line in _lines(folder / 'metrics.jsonl')}
  config = _record(folder / 'config.json')
  if config is None:
    raise user_error('--workdir', str(folder), 'has metrics but no config.json')
  return Stage(folder.name, folder, config, [by_step[step] for step in sorted(by_step)],
               _record(folder / 'evaluation.json'), _record(folder / 'evaluation_untrained.json'))


def _read_export(root: epath.Path) -> dict[str, Any] | None:
  """The models of an export: folder -> class and size; None without any."""
  models = {}
  for file in sorted(root.glob('*/config.json')):
    config = json.loads(file.read_text())
    models[file.parent.name] = {
        'class': config.get('_class_name') or config.get('model_type'),
        'bytes': sum(part.stat().length for part in file.parent.glob('*.safetensors'))}
  return models or None


def _record(path: epath.Path) -> Any:
  return json.loads(path.read_text()) if path.exists() else None


def _lines(path: epath.Path) -> list[dict[str, Any]]:
  if not path.exists():
    return []
  return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
