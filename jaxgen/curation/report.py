"""Counts of a whole run, and its page: what every stage kept and dropped, with examples."""

import json
from html import escape
from typing import Any

from jaxgen.core.files import read_json
from jaxgen.core.files import write_text
from jaxgen.curation.engine import Worker
from jaxgen.curation.tally import Tally

SHOWN = 8  # examples of each stage and reason on the page

_STYLE = '''
:root { --ink: #1c2330; --dim: #667085; --line: #e4e7ec; --card: #fff; --ground: #f6f7f9;
  --good: #12805c; --bad: #c4320a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --dim: #98a2b3; --line: #2c3442;
  --card: #171c26; --ground: #0f131a; --good: #4cc38a; --bad: #ff8a65; } }
body { margin: 0 auto; max-width: 1080px; padding: 40px 20px 80px; color: var(--ink);
  background: var(--ground); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 26px; margin: 0; } h2 { font-size: 18px; margin: 44px 0 6px; }
h3 { font-size: 14px; margin: 18px 0 8px; font-weight: 500; }
.dim { color: var(--dim); } .good { color: var(--good); } .bad { color: var(--bad); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 8px 16px; }
.examples { display: flex; flex-wrap: wrap; gap: 12px; }
figure { margin: 0; max-width: 260px; font-size: 12px; line-height: 1.35; }
figure img { height: 84px; margin-right: 3px; border-radius: 4px; vertical-align: top; }
figcaption { margin-top: 4px; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 6px 10px; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; } th { color: var(--dim); font-weight: 500; }
'''


def write_report(worker: Worker) -> Tally:
  """Adds up the tallies of all chunks; writes ``info.json`` and ``report.html``.

  Returns:
    Counts and examples of the whole run.
  """
  total = Tally.of(len(worker.stages), SHOWN)
  for phase, count in enumerate(worker.phases):
    for chunk in range(count):
      total.merge(Tally.from_json(read_json(
          worker.tally_file(phase, chunk), 'remove it, and its chunk is made again')))
  samples = sum(total.licences.values())
  stages = [dict(stage=name, entered=stage.entered, left=stage.left, dropped=stage.dropped)
            for name, stage in zip(worker.names, total.stages, strict=True)]
  write_text(worker.out / 'info.json', json.dumps(dict(
      samples=samples, licences=total.licences, stages=stages), indent=2))
  write_text(worker.out / 'report.html', _page(worker, total, samples))
  return total


def _page(worker: Worker, total: Tally, samples: int) -> str:
  title = f'{samples:,} samples of {worker.job.recipe}'
  licences = ', '.join(f'{escape(name)} {count:,}' for name, count in sorted(
      total.licences.items()))
  sections = [f'<h1>{escape(title)}</h1><p class="dim">Licences: {licences or "none"}</p>',
              _table(worker, total)]
  for stage, tally in zip(worker.stages, total.stages):
    parameters = json.dumps(stage.described()['parameters'])
    sections.append(f'<h2>{escape(stage.name)}</h2><div class="dim">{escape(parameters)}</div>')
    sections.append(_examples('good', f'kept {tally.left:,}', tally.kept))
    sections += [_examples('bad', f'{reason}: {count:,}', tally.examples[reason])
                 for reason, count in sorted(tally.dropped.items())]
  return (f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}'
          '</title><meta name="viewport" content="width=device-width, initial-scale=1">'
          f'<style>{_STYLE}</style></head><body>{"".join(sections)}</body></html>\n')


def _table(worker: Worker, total: Tally) -> str:
  rows = ''.join(
      f'<tr><td>{escape(name)}</td><td>{stage.entered:,}</td><td>{stage.left:,}</td><td>'
      + ', '.join(f'{escape(reason)} {count:,}' for reason, count in sorted(stage.dropped.items()))
      + '</td></tr>' for name, stage in zip(worker.names, total.stages, strict=True))
  return ('<h2>Stages</h2><div class="card"><table><tr><th>stage</th><th>in</th><th>out</th>'
          f'<th>dropped</th></tr>{rows}</table></div>')


def _examples(kind: str, title: str, examples: list[dict[str, Any]]) -> str:
  figures = ''.join(map(_figure, examples))
  return f'<h3 class="{kind}">{escape(title)}</h3><div class="examples">{figures}</div>'


def _figure(example: dict[str, Any]) -> str:
  images = ''.join(f'<img alt="" src="data:image/jpeg;base64,{data}">'
                   for data in example['pictures'])
  facts = ', '.join(f'{name} {_shown(value)}' for name, value in example['facts'].items())
  texts = ''.join(f'<br>{escape(text)}' for text in example['texts'])
  return (f'<figure>{images}<figcaption>{escape(example["id"])}<br><span class="dim">'
          f'{escape(facts)}</span>{texts}</figcaption></figure>')


def _shown(value: Any) -> str:
  return f'{value:.3g}' if isinstance(value, float) else str(value)[:120]
