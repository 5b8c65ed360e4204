"""Two runs side by side on one HTML page: scores, curves, configs, the same problems as drawn."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from etils import epath

from jaxgen.core import pages
from jaxgen.core import trees
from jaxgen.core.files import check_place
from jaxgen.core.files import write_text
from jaxgen.evaluation import charts
from jaxgen.evaluation.page import figure
from jaxgen.evaluation.report import read_stages
from jaxgen.evaluation.report import SOURCE
from jaxgen.evaluation.report import Stage
from jaxgen.evaluation.report import summarise

SHOWN = 24  # problems on the page
# What is drawn as a curve beside the loss, where both runs have logged it.
CURVES = (SOURCE, 'validation/', 'update_norm/')
Pair = tuple[Any, Any]


def write_comparison(workdir: str, against: str) -> str:
  """Writes ``against_<name>.html`` into the workdir; returns its path.

  Args:
    workdir: a run, or a folder of consecutive runs.
    against: another one.

  Raises:
    UserError: there is no run in one of them, a damaged file, or no place to write.
  """
  roots = epath.Path(workdir), epath.Path(against)
  check_place(roots[0])
  runs = tuple(read_stages(root, flag) for root, flag in zip(roots, ('--workdir', '--against')))
  names = tuple(root.name for root in roots)
  names = names if names[0] != names[1] else (workdir, against)
  summaries = tuple(summarise(root, stages) for root, stages in zip(roots, runs))
  body = ''.join([f'<h1>{escape(names[0])} and {escape(names[1])}</h1>', _facts(names, summaries),
                  _scores(names, summaries),
                  *(_stage(names, pair) for pair in pairs(*runs))])
  page = roots[0] / f'against_{roots[1].name}.html'
  write_text(page, pages.document(f'{names[0]} and {names[1]}', body, charts.STYLE))
  return str(page)


def pairs(ours: Sequence[Stage], theirs: Sequence[Stage]) -> list[tuple[Stage, Stage]]:
  """Stages of one name; the last ones where no name is shared."""
  known = {stage.name: stage for stage in theirs}
  found = [(stage, known[stage.name]) for stage in ours if stage.name in known]
  return found or [(ours[-1], theirs[-1])]


def _facts(names: tuple[str, str], summaries: Pair) -> str:
  rows = [('', *names, 'difference')]
  for label, values in (
      ('overall score', [(each['score'] or {}).get('overall') for each in summaries]),
      ('optimizer steps', [sum(each['steps'].values()) for each in summaries]),
      ('seconds of all stages', [each['seconds'] for each in summaries])):
    rows.append((label, *_compared(*values)))
  return f'<div class="card">{pages.table(rows)}</div>'


def _scores(names: tuple[str, str], summaries: Pair) -> str:
  ours, theirs = (each['score'] or {} for each in summaries)
  rows = [(task.replace('_', ' '), *_compared(ours.get(task), theirs.get(task)))
          for task in dict.fromkeys([*ours, *theirs])]
  return rows and (f'<h2>Score by task</h2><div class="card">'
                   f'{pages.table([("task", *names, "difference"), *rows])}</div>') or ''


def _stage(names: tuple[str, str], pair: tuple[Stage, Stage]) -> str:
  """Curves, differences of the configs and samples of two stages."""
  title = ' and '.join(dict.fromkeys(stage.name for stage in pair))
  return (f'<h2>{escape(title)}</h2>{_curves(names, pair)}{_configs(names, pair)}'
          f'{_samples(names, pair)}')


def _curves(names: tuple[str, str], pair: tuple[Stage, Stage]) -> str:
  logged = [dict.fromkeys(name for line in stage.metrics for name in line) for stage in pair]
  shared = [name for name in logged[0]
            if name in logged[1] and any(kind in name for kind in CURVES)]
  cards = []
  for name in ('loss', *shared):
    curves = [[(line['step'], line[name]) for line in stage.metrics if name in line]
              for stage in pair]
    cards.append(f'<div class="card"><h3>{escape(name)}</h3>'
                 f'{charts.line_charts(dict(zip(names, curves)), name)}</div>')
  return f'<div class="cards">{"".join(cards)}</div>'


def _configs(names: tuple[str, str], pair: tuple[Stage, Stage]) -> str:
  ours, theirs = (trees.flatten(stage.config) for stage in pair)
  rows = [(field.replace('/', '.'), *(
      '–' if field not in each else json.dumps(each[field]) for each in (ours, theirs)))
          for field in sorted(ours.keys() | theirs.keys())
          if field not in ours or field not in theirs or ours[field] != theirs[field]]
  if not rows:
    return '<p class="dim">The configs are equal.</p>'
  return ('<h3>Fields of the configs that differ</h3><div class="card">'
          f'{pages.table([("field", *names), *rows])}</div>')


def _samples(names: tuple[str, str], pair: tuple[Stage, Stage]) -> str:
  """Problems that both have drawn; first those that one of them alone has right."""
  ours, theirs = (_drawn(stage) for stage in pair)
  shared = sorted((key for key in ours if key in theirs),
                  key=lambda key: ours[key]['correct'] == theirs[key]['correct'])
  rows = [(key[0].replace('_', ' '), figure(pair[0], ours[key]), figure(pair[1], theirs[key]))
          for key in shared[:SHOWN]]
  if not rows:
    return ''
  return ('<h3>The same problems, those that one of them has right first</h3>'
          f'{pages.table([("", *names), *rows], "pairs")}')


def _drawn(stage: Stage) -> Mapping[tuple[str, str, int], dict[str, Any]]:
  """Samples by task, caption and how often that came before."""
  found: dict[tuple[str, str, int], dict[str, Any]] = {}
  for sample in stage.evaluation['samples'] if stage.evaluation else ():
    if (stage.folder / sample['file']).exists():
      number = sum(key[:2] == (sample['task'], sample['caption']) for key in found)
      found[sample['task'], sample['caption'], number] = sample
  return found


def _compared(ours: float | None, theirs: float | None) -> tuple[str, str, str]:
  shown = ['–' if value is None else f'{value:.3f}' if isinstance(value, float) else f'{value:,}'
           for value in (ours, theirs)]
  if ours is None or theirs is None:
    return shown[0], shown[1], '–'
  difference = ours - theirs
  return shown[0], shown[1], (f'{difference:+.3f}' if isinstance(difference, float)
                              else f'{difference:+,}')
