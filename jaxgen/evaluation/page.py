"""The report as one self-contained HTML page with inline images and charts."""

import json
from collections.abc import Sequence
from html import escape
from typing import Any

from jaxgen.core import pages
from jaxgen.core.endpoint import image_url
from jaxgen.evaluation import charts
from jaxgen.evaluation import progress
from jaxgen.evaluation import sections

TILE = 124  # width of one image in pixels of the page

_STYLE = '''
.facts { display: flex; gap: 36px; flex-wrap: wrap; margin-top: 22px; }
.facts b { display: block; font-size: 30px; line-height: 1.2; font-weight: 600; }
'''


def render_page(title: str, stages: Sequence[Any], summary: dict[str, Any]) -> str:
  """Renders the page as HTML text.

  Args:
    title: name of the run.
    stages: ``report.Stage`` objects in training order.
    summary: the contents of ``summary.json``.
  """
  parts = [_header(title, summary), _scores(summary), _curves(stages), _losses(summary),
           *(progress.section(stage.name, stage.metrics, stage.folder) for stage in stages),
           _speed(stages, summary), *map(_measured, stages), _export(summary),
           _parameters(stages), _configs(stages)]
  return pages.document(title, ''.join(parts), _STYLE + charts.STYLE)


def _header(title: str, summary: dict[str, Any]) -> str:
  facts = []
  if summary['score']:
    facts.append(f'<div><b>{summary["score"]["overall"]:.3f}</b>overall score</div>')
  if summary['score_untrained']:
    facts.append(f'<div><b>{summary["score_untrained"]["overall"]:.3f}</b>untrained</div>')
  if summary['seconds'] is not None:
    facts.append(f'<div><b>{_duration(summary["seconds"])}</b>from nothing to export</div>')
  facts.append(f'<div><b>{sum(summary["steps"].values()):,}</b>optimizer steps</div>')
  return f'<h1>{escape(title)}</h1><div class="facts">{"".join(facts)}</div>'


def _scores(summary: dict[str, Any]) -> str:
  if not summary['score']:
    return ''
  untrained = summary['score_untrained'] or {}
  rows = {task: (value, untrained.get(task)) for task, value in summary['score'].items()}
  note = '<p class="dim">The red marks are the same system with random weights.</p>'
  return (f'<h2>Score by task</h2><div class="card">{charts.bar_chart(rows)}'
          f'{note if untrained else ""}</div>')


def _curves(stages: Sequence[Any]) -> str:
  cards = []
  for stage in stages:
    steps = [line['step'] for line in stage.metrics]
    losses = [line['loss'] for line in stage.metrics]
    last = f'{losses[-1]:.4g}' if losses and losses[-1] is not None else 'none'
    cards.append(f'<div class="card"><h3>{escape(stage.name)}: loss, last {last}</h3>'
                 f'{charts.line_chart(steps, losses, f"loss of {stage.name}")}</div>')
  return f'<h2>Training</h2><div class="cards">{"".join(cards)}</div>'


def _losses(summary: dict[str, Any]) -> str:
  """Of the runs with several sources, the loss of each: how hard the tasks are."""
  rows = [(name, ', '.join(f'{source} {loss:.4f}' for source, loss in losses.items()))
          for name, losses in summary['losses'].items() if len(losses) > 1]
  if not rows:
    return ''
  return ('<h3>Loss by source, last quarter of the steps, the easiest first</h3>'
          f'<div class="card">{pages.table([("stage", "losses"), *rows])}</div>')


def _speed(stages: Sequence[Any], summary: dict[str, Any]) -> str:
  rows = [('stage', 'steps', 'rows per step', 'images/s (median)', 'wait for data (median)',
           'goodput', 'time with start-up')]
  for stage in stages:
    seconds = summary['stage_seconds'].get(stage.name)
    rate = _median([line['images_per_second'] for line in stage.metrics
                    if 'images_per_second' in line])
    wait = _median([line['data_wait'] for line in stage.metrics if 'data_wait' in line])
    goodput = summary['goodput'][stage.name]
    rows.append((stage.name, f'{stage.steps:,}', str(stage.config['train']['rows']),
                 '–' if rate is None else f'{rate:,.1f}', '–' if wait is None else f'{wait:.0%}',
                 '–' if goodput is None else f'{goodput:.0%}',
                 '–' if seconds is None else _duration(seconds)))
  return f'<h2>Throughput</h2><div class="card">{pages.table(rows)}</div>'


def _measured(stage: Any) -> str:
  """Everything that a run was evaluated on."""
  found = {'held-out prompts': stage.evaluation} if stage.evaluation else {}
  found |= {f'held-out prompts, {name}': each for name, each in stage.others.items()}
  return ''.join([*(_samples(stage, what, each) for what, each in found.items()),
                  sections.fit(stage.name, stage.folder),
                  sections.held_out(stage.name, stage.folder)])


def _samples(stage: Any, what: str, evaluation: dict[str, Any]) -> str:
  by_task: dict[str, list[str]] = {}
  for sample in evaluation['samples']:
    if (stage.folder / sample['file']).exists():
      by_task.setdefault(sample['task'], []).append(figure(stage, sample))
  blocks = ''.join(
      f'<h3>{escape(task.replace("_", " "))}</h3><div class="samples">{"".join(figures)}</div>'
      for task, figures in by_task.items())
  note = ('<p class="dim">What was given, then what was drawn over what was expected; of dialogues '
          'also what was written.</p>'
          if any('columns' in sample for sample in evaluation['samples']) else '')
  return (f'<h2>Samples of {escape(stage.name)}, {escape(what)}</h2>'
          f'{_details(evaluation)}{note}{blocks}')


def figure(stage: Any, sample: dict[str, Any]) -> pages.Html:
  """A sample of an evaluation: its picture, which has a column for each image given or drawn, the
  prompt, the texts of a dialogue, and the verdict."""
  address = image_url((stage.folder / sample['file']).read_bytes())
  verdict = ('<span class="good">✓ right</span>' if sample['correct']
             else '<span class="bad">✗ wrong</span>')
  missed = sorted({name for mark in sample.get('marks', ()) for name, value in mark.items()
                   if name != 'correct' and value is not None and value < 1})
  if missed:
    verdict += f' <span class="dim">({", ".join(missed)})</span>'
  said = _texts(sample['texts']) if 'texts' in sample else ''
  width = TILE * sample.get('columns', 1)
  return pages.Html(
      f'<figure style="width: {width}px"><img alt="" src="{address}">'
      f'<figcaption>{escape(sample["caption"])}{said}<br>{verdict}</figcaption></figure>')


def _texts(pairs: Sequence[tuple[str | None, str | None]]) -> str:
  """What was written in a dialogue, and where it is not as it should be, what was due."""
  lines = []
  for written, due in pairs:
    right = (written or '').strip() == due
    lines.append(f'<li class="{"good" if right else "bad"}">{escape(written or "nothing")}' + (
        '' if right else f' <span class="dim">due: {escape(due or "nothing")}</span>') + '</li>')
  return f'<ol>{"".join(lines)}</ol>'


def _details(evaluation: dict[str, Any]) -> str:
  """What of the drawn tasks was right in which respect, and what a copy of the input would be."""
  details = evaluation.get('details')
  if not details:
    return ''
  copied = evaluation.get('copied', {})
  # The marks, see shapes.marks and, of dialogues, shapes.dialogues.
  names = list(dict.fromkeys(name for found in details.values() for name in found))
  rows = [('task', 'right', 'input copied', *names)]
  for task, found in details.items():
    values = (evaluation['score'][task], copied.get(task), *(found.get(name) for name in names))
    rows.append((task.replace('_', ' '), *(
        '–' if value is None else format(value, '.2f') for value in values)))
  return f'<div class="card">{pages.table(rows)}</div>'


def _export(summary: dict[str, Any]) -> str:
  if summary['export'] is None:
    return ''
  rows = [('folder', 'class', 'weights'), *(
      (f'export/{name}', str(model['class']), f'{model["bytes"] / 1e6:,.1f} MB')
      for name, model in summary['export'].items())]
  return f'<h2>PyTorch export</h2><div class="card">{pages.table(rows)}</div>'


def _parameters(stages: Sequence[Any]) -> str:
  tables = ''.join(sections.parameters(stage.name, stage.folder) for stage in stages)
  return tables and f'<h2>Parameters</h2>{tables}'


def _configs(stages: Sequence[Any]) -> str:
  blocks = ''.join(
      f'<details class="card"><summary>{escape(stage.name)}</summary><pre>'
      f'{escape(json.dumps(stage.config, indent=2))}</pre></details>' for stage in stages)
  return f'<h2>Configs</h2>{blocks}'


def _median(values: Sequence[float]) -> float | None:
  return sorted(values)[len(values) // 2] if values else None


def _duration(seconds: float) -> str:
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours} h {minutes:02d} min'
  return f'{minutes} min {rest:02d} s' if minutes else f'{rest} s'
