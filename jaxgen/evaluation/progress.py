"""What the validations of a run have shown: losses over its steps, the same images over time."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from etils import epath

from jaxgen.core import pages
from jaxgen.core.endpoint import image_url
from jaxgen.evaluation import charts
from jaxgen.sampling.jobs import read_results
from jaxgen.sampling.jobs import RESULTS
from jaxgen.sampling.validation import FOLDER

PREFIX = 'validation/'  # of the metrics
STEPS = 6  # columns of images at the most, the last step among them
SIDE = 124  # width of one image in pixels of the page

# Weights (ema or params) -> step -> the entries of its ``results.json``.
Drawn = dict[str, dict[int, list[dict[str, Any]]]]


def curves(metrics: Sequence[Mapping[str, Any]]) -> dict[str, tuple[list[int], list[float]]]:
  """Name of a validation metric -> steps and values, from the lines of metrics.jsonl."""
  found: dict[str, tuple[list[int], list[float]]] = {}
  for line in metrics:
    for name in sorted(name for name in line if name.startswith(PREFIX)):
      steps, values = found.setdefault(name.removeprefix(PREFIX), ([], []))
      steps.append(line['step'])
      values.append(line[name])
  return found


def drawn(workdir: epath.Path) -> Drawn:
  """The validation images of a run, by steps in their order."""
  found: Drawn = {}
  for file in sorted((workdir / FOLDER).glob(f'*_*/{RESULTS}')):
    step, _, weights = file.parent.name.partition('_')
    if step.isdecimal():
      found.setdefault(weights, {})[int(step)] = read_results(file.parent)
  return found


def section(name: str, metrics: Sequence[Mapping[str, Any]], workdir: epath.Path) -> str:
  """HTML of the validations of a run; '' where there were none.

  Args:
    name: of the run.
    metrics: lines of its metrics.jsonl.
    workdir: of the run.
  """
  cards = ''.join(
      f'<div class="card"><h3>{escape(title)}, last {values[-1]:.4g}</h3>'
      f'{charts.line_chart(steps, values, f"{title} of {name}")}</div>'
      for title, (steps, values) in curves(metrics).items())
  tables = ''.join(_table(weights, by_step) for weights, by_step in drawn(workdir).items())
  if not cards and not tables:
    return ''
  return (f'<h2>Validation of {escape(name)}</h2>'
          f'{cards and f"""<div class="cards">{cards}</div>"""}{tables}')


def _table(weights: str, by_step: Mapping[int, Sequence[Mapping[str, Any]]]) -> str:
  """A row for each request, a column for each of some steps."""
  steps = _spread(sorted(by_step))
  rows = [('request', *(f'{step:,}' for step in steps))]
  rows += [(entry['name'], *(_images(by_step[step][number:number + 1]) for step in steps))
           for number, entry in enumerate(by_step[steps[-1]])]
  return (f'<h3>Drawn by {escape(weights)} behind these steps</h3>'
          f'<div class="card">{pages.table(rows)}</div>')


def _spread(steps: Sequence[int]) -> list[int]:
  """Some of the steps, evenly spaced, the last one among them."""
  count = min(STEPS, len(steps))
  return [steps[(place + 1) * len(steps) // count - 1] for place in range(count)]


def _images(entries: Sequence[Mapping[str, Any]]) -> pages.Html:
  files = [epath.Path(file) for entry in entries for file in entry['files']]
  return pages.Html(''.join(
      f'<img alt="" width="{SIDE}" src="{image_url(file.read_bytes())}">'
      for file in files if file.exists()))
