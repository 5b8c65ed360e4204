"""Counts of a whole run, and its page: what every stage kept and dropped, with examples."""

import json
from concurrent import futures
from html import escape
from typing import Any

from jaxgen.core import pages
from jaxgen.core.files import AT_ONCE
from jaxgen.core.files import read_json
from jaxgen.core.files import write_text
from jaxgen.curation.engine import Worker
from jaxgen.curation.tally import Tally

SHOWN = 8  # examples of each stage and reason on the page

_STYLE = '''
figure { max-width: 260px; }
figure img { display: inline; width: auto; height: 84px; margin-right: 3px; vertical-align: top; }
'''


def write_report(worker: Worker) -> Tally:
  """Adds up the tallies of all chunks; writes ``info.json`` and ``report.html``.

  Returns:
    Counts and examples of the whole run.
  """
  total = Tally.of(len(worker.stages), SHOWN)
  files = [worker.tally_file(phase, chunk) for phase, count in enumerate(worker.phases)
           for chunk in range(count)]
  with futures.ThreadPoolExecutor(AT_ONCE) as pool:
    for value in pool.map(lambda file: read_json(
        file, 'remove it, and its chunk is made again'), files):
      total.merge(Tally.from_json(value))
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
  return pages.document(title, ''.join(sections), _STYLE)


def _table(worker: Worker, total: Tally) -> str:
  rows = [('stage', 'in', 'out', 'dropped'), *(
      (name, f'{stage.entered:,}', f'{stage.left:,}', ', '.join(
          f'{reason} {count:,}' for reason, count in sorted(stage.dropped.items())))
      for name, stage in zip(worker.names, total.stages, strict=True))]
  return f'<h2>Stages</h2><div class="card">{pages.table(rows)}</div>'


def _examples(kind: str, title: str, examples: list[dict[str, Any]]) -> str:
  figures = ''.join(map(_figure, examples))
  return f'<h3 class="{kind}">{escape(title)}</h3><div class="samples">{figures}</div>'


def _figure(example: dict[str, Any]) -> str:
  images = ''.join(f'<img alt="" src="data:image/jpeg;base64,{data}">'
                   for data in example['pictures'])
  facts = ', '.join(f'{name} {_shown(value)}' for name, value in example['facts'].items())
  texts = ''.join(f'<br>{escape(text)}' for text in example['texts'])
  return (f'<figure>{images}<figcaption>{escape(example["id"])}<br><span class="dim">'
          f'{escape(facts)}</span>{texts}</figcaption></figure>')


def _shown(value: Any) -> str:
  return f'{value:.3g}' if isinstance(value, float) else str(value)[:120]
