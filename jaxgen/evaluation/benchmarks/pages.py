"""One page for an evaluation, and one that compares several; Markdown beside the HTML."""

import io
import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from etils import epath
from PIL import Image

from jaxgen.core.endpoint import image_url
from jaxgen.core.errors import user_error
from jaxgen.core.files import read_json
from jaxgen.core.files import write_text
from jaxgen.core.image_files import to_jpeg
from jaxgen.core.pages import document
from jaxgen.core.pages import table as html_table
from jaxgen.evaluation.benchmarks.scoring import RESULT

SHOWN, SIDE = 6, 256  # best and worst items; pixels of a picture
Named = tuple[str, Mapping[str, Any]]  # name of a run, contents of its ``scores.json``


def write_page(record: Mapping[str, Any], folder: str) -> str:
  """Writes ``report.html`` and ``report.md`` of one evaluation; returns the path of the page.

  Args:
    record: the contents of ``scores.json``.
    folder: of the results.
  """
  root = epath.Path(folder)
  title = f'{record["benchmark"]}: {record["items"]} prompts'
  table = _table([(epath.Path(folder).name, record)])
  body = (f'<h1>{escape(title)}</h1><p class="dim">{escape(_by(record))}</p>'
          f'<div class="card">{html_table(table)}</div>{_examples(record, root)}')
  write_text(root / 'report.html', document(title, body))
  write_text(root / 'report.md', f'# {title}\n\n{_by(record)}\n\n{_markdown(table)}\n')
  return str(root / 'report.html')


def write_comparison(folders: Sequence[str], out: str) -> str:
  """Writes ``comparison.html``, ``.md`` and ``.json`` of several results of one benchmark.

  Only runs that the same judge, rubrics, detector, towers and masks have scored share a table; one
  line says in what the others differ.

  Raises:
    UserError: they are of several benchmarks, or of other numbers of items.
  """
  names = [epath.Path(folder).name for folder in folders]
  names = names if len(set(names)) == len(names) else folders
  records = [(name, read_json(epath.Path(folder) / RESULT, 'score it first'))
             for name, folder in zip(names, folders, strict=True)]
  for name in ('benchmark', 'items'):
    if len({record[name] for _, record in records}) > 1:
      raise user_error('--compare', ','.join(folders), f'they differ in {name}; such scores are '
                       'not to be compared')
  title, alike = f'{records[0][1]["benchmark"]}: {len(records)} runs', _scored_alike(records)
  tables, difference = [_table(own) for own in alike], _difference(records)
  notes = [f'{name}: {_by(record)}' for name, record in records]
  examples = ''.join(_examples(record, epath.Path(folder), f' of {name}')
                     for folder, (name, record) in zip(folders, records, strict=True))
  root = epath.Path(out)
  write_text(root / 'comparison.html', document(
      title, f'<h1>{escape(title)}</h1>'
      + ''.join(f'<p class="dim">{escape(note)}</p>' for note in notes)
      + (difference and f'<p><b>{escape(difference)}</b></p>')
      + ''.join(f'<div class="card">{html_table(table)}</div>' for table in tables) + examples))
  write_text(root / 'comparison.md', '\n\n'.join(
      [f'# {title}', *notes, *([f'**{difference}**'] if difference else []),
       *map(_markdown, tables)]) + '\n')
  write_text(root / 'comparison.json', json.dumps(
      dict(benchmark=records[0][1]['benchmark'], papers=records[0][1]['papers'],
           difference=difference, alike=[[name for name, _ in own] for own in alike], runs={
          name: {key: record[key] for key in ('table', 'by', 'drawn', 'missing')}
          for name, record in records}), indent=1, ensure_ascii=False))
  return str(root / 'comparison.html')


def _scorers(record: Mapping[str, Any]) -> dict[str, str]:
  """What scored: part -> its name. Two runs with other names for one part are not comparable."""
  by = record['by']
  found = {name: by[name] for name in ('judge', 'detector', 'masks') if by.get(name)}
  if by.get('served'):
    found['version of the judge'] = ', '.join(by['served'])
  found |= {f'{name} tower': place for name, place in by.get('towers', {}).items()}
  return found | {f'rubric {name}': digest[:8] for name, digest in by.get('rubrics', {}).items()}


def _scored_alike(records: Sequence[Named]) -> list[list[Named]]:
  """The runs in groups of which all members agree in what scored them."""
  groups: list[list[Named]] = []
  for name, record in records:
    ours = _scorers(record)
    for group in groups:
      known = [item for _, other in group for item in _scorers(other).items()]
      if all(ours.get(part, theirs) == theirs for part, theirs in known):
        group.append((name, record))
        break
    else:
      groups.append([(name, record)])
  return groups


def _difference(records: Sequence[Named]) -> str:
  """One line on what scored the runs differently; '' where nothing did."""
  names: dict[str, dict[str, list[str]]] = {}  # part -> its name -> runs
  for run, record in records:
    for part, name in _scorers(record).items():
      names.setdefault(part, {}).setdefault(name, []).append(run)
  parts = [f'{part} ' + ', '.join(f'{name} of {" and ".join(runs)}' for name, runs in own.items())
           for part, own in names.items() if len(own) > 1]
  return parts and ('Compare numbers within a table only, as the runs were scored by different '
                    f'means: {"; ".join(parts)}') or ''


def _table(records: Sequence[Named]) -> list[list[str]]:
  """A row for each metric: those of the runs, then those that papers print."""
  papers = records[0][1]['papers']
  rows = [['metric', *(name for name, _ in records), *papers]]
  for metric in records[0][1]['table']:
    rows.append([metric, *(_cell(record['table'].get(metric)) for _, record in records),
                 *(f'{numbers[metric]:g}' if metric in numbers else '' for numbers in
                   papers.values())])
  return rows


def _cell(cell: Mapping[str, Any] | None) -> str:
  if cell is None or cell['value'] is None:
    return 'none'
  missing = f' ({cell["missing"]} missing)' if cell['missing'] else ''
  return f'{cell["value"]:.4g} [{cell["low"]:.4g}, {cell["high"]:.4g}]{missing}'


def _by(record: Mapping[str, Any]) -> str:
  """What scored, when, and how much is missing."""
  by, drawn = record['by'], record['drawn']
  scorers = [by[name] for name in ('judge', 'detector', 'embeddings') if by.get(name)]
  scorers += [f'{name} of {place}' for name, place in by.get('towers', {}).items()]
  words = [f'scored by {", ".join(scorers)}']
  if by.get('masks'):
    words.append(f'masks: {by["masks"]}')
  if by.get('served'):
    words.append(f'answered by {", ".join(by["served"])}')
  if by.get('official_judge'):
    words.append(f'the authors score with {by["official_judge"]}')
  if by.get('dates'):
    words.append(f'replies of {by["dates"][0][:10]} to {by["dates"][1][:10]}')
  if by.get('rubrics'):
    words.append('rubrics ' + ', '.join(f'{name} {digest[:8]}'
                                        for name, digest in by['rubrics'].items()))
  if 'tokens' in by:
    words.append(f'{by["tokens"][0]:,} tokens read, {by["tokens"][1]:,} written')
  if 'dollars' in by:
    words.append(f'{by["dollars"]:.2f} dollars')
  if drawn:
    words.append(f'prompts: {drawn["wordings"]}')
  return '; '.join([*words, f'{len(record["missing"])} scores missing'])


def _examples(record: Mapping[str, Any], root: epath.Path, whose: str = '') -> str:
  """The best and the worst items by the sum of their scores."""
  known = [entry for entry in record['scores'] if None not in entry['scores'].values()
           and entry['scores']]
  ranked = sorted(known, key=lambda entry: sum(entry['scores'].values()))
  count = min(SHOWN, len(ranked) // 2)
  parts = []
  for title, chosen in (('Best', ranked[::-1][:count]), ('Worst', ranked[:count])):
    figures = ''.join(_figure(entry, root) for entry in chosen)
    parts.append(f'<h2>{title}{escape(whose)}</h2><div class="samples">{figures}</div>')
  return ''.join(parts)


def _figure(entry: Mapping[str, Any], root: epath.Path) -> str:
  verdict = ', '.join(f'{name} {value:g}' for name, value in list(entry['scores'].items())[:8])
  files = [root / file for file in entry['files'][:1] if (root / file).exists()]
  image = ''.join(f'<img alt="" src="{_thumbnail(file)}">' for file in files)
  return (f'<figure style="width: {SIDE}px">{image}<figcaption>{escape(entry["text"][:200])}<br>'
          f'<span class="dim">{escape(verdict)}</span></figcaption></figure>')


def _thumbnail(file: epath.Path) -> str:
  image = Image.open(io.BytesIO(file.read_bytes())).convert('RGB')
  image.thumbnail((SIDE, SIDE))
  return image_url(to_jpeg(image, quality=85))


def _markdown(table: Sequence[Sequence[str]]) -> str:
  head, *rows = table
  lines = [head, ['---'] * len(head), *rows]
  return '\n'.join('| ' + ' | '.join(row) + ' |' for row in lines)
