"""The table of an ablation: what runs with several seeds scored, in which task, how steadily."""

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np
from etils import epath

from jaxgen.core.files import check_place
from jaxgen.core.files import write_text
from jaxgen.evaluation.report import read_stages
from jaxgen.evaluation.report import Stage

PIECES = 20  # of a run, for the swing


def seeds(workdir: str) -> list[epath.Path]:
  """The folders ``seed<N>`` of an ablation, by number; none for a run or for consecutive runs."""
  folders = [folder for folder in epath.Path(workdir).glob('seed*')
             if folder.name[4:].isdecimal()]
  return sorted(folders, key=lambda folder: int(folder.name[4:]))


def write_table(workdir: str) -> str:
  """Writes ``table.md`` into the folder of an ablation; returns its path.

  A line for each run that was scored, and for each role and language that it was scored in: mean
  and standard deviation over the seeds of the overall score, the mean of each task, the marks of
  their images besides, each over the tasks that have it, the share of images that copy what was
  given, the loss of the last quarter, and how much the loss swings.

  Args:
    workdir: holds ``seed0``, ``seed1``, ..., which hold the runs, as launch/ablations.sh has them.

  Raises:
    UserError: a run is damaged, or the table cannot be written.
  """
  root = epath.Path(workdir)
  check_place(root)
  write_text(root / 'table.md', table(workdir))
  return str(root / 'table.md')


def table(workdir: str) -> str:
  """The table in Markdown; see ``write_table``."""
  runs: dict[str, list[Stage]] = {}
  for seed in seeds(workdir):
    for stage in read_stages(seed):
      for name, scored in ((stage.name, stage.evaluation), *(
          (f'{stage.name}, {other}', scores) for other, scores in stage.others.items())):
        if scored:
          runs.setdefault(name, []).append(dataclasses.replace(stage, evaluation=scored))
  tasks = list(dict.fromkeys(task for stages in runs.values() for stage in stages
                             for task in stage.evaluation['score'] if task != 'overall'))
  marks = list(dict.fromkeys(mark for stages in runs.values() for stage in stages
                             for mark in _marks(stage)))
  head = ('run', 'seeds', 'overall', *tasks, *marks, 'copies', 'loss', 'swing of the loss')
  lines = [head, ('---',) * len(head), *(_row(name, stages, tasks, marks)
                                        for name, stages in runs.items())]
  return ''.join(f'| {" | ".join(line)} |\n' for line in lines)


def _row(name: str, stages: Sequence[Stage], tasks: Sequence[str], marks: Sequence[str]
         ) -> tuple[str, ...]:
  def mean(value: Callable[[Stage], float | None], form: str) -> str:
    found = [number for number in map(value, stages) if number is not None]
    return format(float(np.mean(found)), form) if found else '–'

  overall = [stage.evaluation['score']['overall'] for stage in stages]
  spread = f' ± {np.std(overall, ddof=1):.3f}' if len(overall) > 1 else ''
  return (name, str(len(stages)), f'{np.mean(overall):.3f}{spread}',
          *(mean(lambda stage: stage.evaluation['score'].get(task), '.3f') for task in tasks),
          *(mean(lambda stage: _marks(stage).get(mark), '.3f') for mark in marks),
          mean(_copies, '.3f'),
          mean(lambda stage: float(_parts(stage)[-PIECES // 4:].mean()), '.4f'),
          mean(swing, '.1%'))


def _marks(stage: Stage) -> dict[str, float]:
  """What an evaluation marks besides whether an image is right -> its mean over the tasks."""
  found: dict[str, list[float]] = {}
  for marks in stage.evaluation.get('details', {}).values():
    for name, value in marks.items():
      if value is not None:
        found.setdefault(name, []).append(value)
  return {name: float(np.mean(values)) for name, values in found.items()}


def _copies(stage: Stage) -> float | None:
  """Mean over the tasks that are given images; None without any, or scored by an older version."""
  shares = stage.evaluation.get('copies')
  return float(np.mean(list(shares.values()))) if shares else None


def _parts(stage: Stage) -> np.ndarray:
  """Mean losses of twentieths of a run, f64[PIECES]; skipped steps do not count."""
  losses = [line['loss'] for line in stage.metrics if line['loss'] is not None]
  return np.asarray([np.mean(piece) for piece in np.array_split(losses, PIECES) if len(piece)])


def swing(stage: Stage) -> float:
  """Mean step of the loss between the twentieths of a run's second half, over their mean."""
  second = _parts(stage)[PIECES // 2:]
  return float(np.abs(np.diff(second)).mean() / second.mean()) if len(second) > 1 else 0.0
