"""A user study as a static page: methods hidden, orders of their own, ratings from 1 to 5 (L041).

``OUT/page`` is what participants get: a page, images under names that say nothing, and no method.
``OUT/key.json`` says which image is whose and stays with you.
"""

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from jaxgen.core.errors import user_error
from jaxgen.core.files import check_new
from jaxgen.core.files import read_json
from jaxgen.core.files import write_bytes
from jaxgen.core.files import write_text
from jaxgen.core.pages import document
from jaxgen.evaluation.benchmarks import tallies

AXES = {'IF': 'Does it follow the instruction?', 'IP': 'Are the given subjects kept?',
        'TC': 'Do the images agree with one another?', 'OQ': 'How good is it overall?'}
SCALE = (1, 5)


def make_study(results: Mapping[str, str], out: str, *, items: int = 20, participants: int = 50,
               seed: int = 0) -> str:
  """Writes the page and its key; returns the path of the page.

  Args:
    results: method -> folder of one benchmark that it drew, with ``items.json``.
    out: a new folder.
    items: of the benchmark that are shown, evenly spaced.
    participants: links; each has orders of its own, of items and of methods.
    seed: of the orders.

  Raises:
    UserError: fewer than two methods, other items, or an image that one of them lacks.
  """
  check_new(out)
  if len(results) < 2 or not all(results.values()):
    raise user_error('--results', ','.join(results), 'name two methods or more, as METHOD=DIR')
  listed = {method: _items(folder) for method, folder in results.items()}
  first = next(iter(listed.values()))
  for method, own in listed.items():
    if [entry['key'] for entry in own] != [entry['key'] for entry in first]:
      raise user_error('--results', results[method], 'has other items than the first folder')
  chosen = [first[index * len(first) // min(items, len(first))]
            for index in range(min(items, len(first)))]
  page, salt, key = epath.Path(out) / 'page', secrets.token_hex(16), {}
  shown: list[dict[str, Any]] = []
  for entry in chosen:
    codes = {}
    for method, folder in results.items():
      code = _code(salt, method, entry['key'])
      codes[code] = [_copy(epath.Path(folder) / file, page, f'{code}_{number}')
                     for number, file in enumerate(entry['files'])]
      key[code] = dict(method=method, item=entry['key'])
    given = [_copy(epath.Path(path), page, _code(salt, 'given', path))
             for path in entry['given']]
    shown.append(dict(text=entry['text'], given=given, codes=codes))
  orders = orders_of([list(entry['codes']) for entry in shown], participants, seed)
  for entry in shown:
    entry['codes'] = dict(sorted(entry['codes'].items()))  # not in the order of the methods
  write_text(page / 'index.html', _html(shown, orders))
  write_text(epath.Path(out) / 'key.json', json.dumps(dict(codes=key, participants=participants),
                                                      indent=1))
  return str(page / 'index.html')


def orders_of(codes: Sequence[Sequence[str]], participants: int, seed: int
              ) -> list[list[list[Any]]]:
  """For each participant the items in an order, each with its codes in an order: [item, codes].

  Over as many participants as there are methods, every method stands once in every place.
  """
  rng, orders = np.random.default_rng(seed), []
  shuffled = [[own[place] for place in rng.permutation(len(own))] for own in codes]
  for participant in range(participants):
    order = [int(place) for place in rng.permutation(len(codes))]
    orders.append([[place, [*shuffled[place][participant % len(shuffled[place]):],
                            *shuffled[place][:participant % len(shuffled[place])]]]
                   for place in order])
  return orders


def read_ratings(files: Sequence[str], key: Mapping[str, Any]) -> list[dict[str, Any]]:
  """The ratings of all participants, each with its method.

  Returns:
    ``participant, item, method, axis, value`` of each.

  Raises:
    UserError: an unknown image or axis, a value out of range, or a participant who is in two
      files.
  """
  found, seen = [], set()
  for file in files:
    record = read_json(file, 'ask the participant for the file again')
    participant, ratings = record.get('participant'), record.get('ratings', {})
    if type(participant) is not int or not isinstance(ratings, dict) or not all(
        isinstance(marks, dict) for marks in ratings.values()):
      raise user_error(file, participant, 'is no file that the page of a study has saved; ask the '
                       'participant for it again')
    if participant in seen:
      raise user_error(file, participant, 'this participant is in two files; leave one out')
    seen.add(participant)
    for code, marks in ratings.items():
      if code not in key['codes']:
        raise user_error(file, code, 'is no image of this study')
      for axis, value in marks.items():
        if axis not in AXES or type(value) is not int or not SCALE[0] <= value <= SCALE[1]:
          raise user_error(file, {axis: value}, f'ratings are {SCALE[0]} to {SCALE[1]} of '
                           f'{", ".join(AXES)}')
        found.append(dict(key['codes'][code], participant=participant, axis=axis, value=value))
  return found


def aggregate(ratings: Sequence[Mapping[str, Any]], seed: int = 0) -> dict[str, Any]:
  """Means of each method and axis with 95 % intervals over participants, and their agreement.

  Returns:
    ``table`` (method -> axis -> a row of ``tallies.scores_of``) and ``agreement``
    (axis -> Krippendorff's alpha for intervals; None where nobody differs or nobody shares).
  """
  values: dict[str, dict[tuple[str, str], list[int]]] = {}  # of each participant
  for rating in sorted(ratings, key=lambda rating: str(rating['participant'])):
    own = values.setdefault(rating['participant'], {})
    own.setdefault((rating['method'], rating['axis']), []).append(rating['value'])
  scores = tallies.scores_of(
      [('', {measure: tallies.tally_of(marks) for measure, marks in own.items()})
       for own in values.values()], tallies.means_of_all, seed)
  table: dict[str, dict[str, Any]] = {}
  for method in dict.fromkeys(rating['method'] for rating in ratings):
    for axis in AXES:
      if (method, axis) in scores:
        table.setdefault(method, {})[axis] = scores[method, axis]
  agreement = {axis: alpha([rating for rating in ratings if rating['axis'] == axis])
               for axis in AXES}
  return dict(table=table, agreement=agreement, participants=len(values))


def alpha(ratings: Sequence[Mapping[str, Any]]) -> float | None:
  """Krippendorff's alpha with squared distances: 1 is agreement, 0 is chance.

  Units are what one method drew for one item; those that one participant alone has rated do not
  count.
  """
  units: dict[tuple[str, str], list[float]] = {}
  for rating in ratings:
    units.setdefault((rating['item'], rating['method']), []).append(rating['value'])
  shared = [np.array(values, float) for values in units.values() if len(values) > 1]
  if not shared:
    return None
  everything = np.concatenate(shared)
  observed = sum(_pairs(values) / (len(values) - 1) for values in shared) / len(everything)
  expected = _pairs(everything) / (len(everything) * (len(everything) - 1))
  return None if expected == 0 else float(1 - observed / expected)


def score_study(folder: str, files: Sequence[str]) -> dict[str, Any]:
  """Aggregates ratings into ``study.json`` of the study's folder; returns its contents."""
  key = read_json(epath.Path(folder) / 'key.json', 'make the study again')
  found = aggregate(read_ratings(files, key))
  write_text(epath.Path(folder) / 'study.json', json.dumps(found, indent=1))
  return found


def lines_of(found: Mapping[str, Any]) -> list[str]:
  """The table as lines of text."""
  lines = [f'{method:24} {axis}  {cell["value"]:.3f}  [{cell["low"]:.3f}, {cell["high"]:.3f}]  '
           f'of {cell["count"]}'
           for method, row in found['table'].items() for axis, cell in row.items()]
  return lines + [f'agreement {axis}: ' + ('none' if value is None else f'{value:.3f}')
                  for axis, value in found['agreement'].items()]


def _pairs(values: np.ndarray) -> float:
  """The sum of squared differences over ordered pairs."""
  return float(2 * (len(values) * (values**2).sum() - values.sum()**2))


def _items(folder: str) -> list[dict[str, Any]]:
  return read_json(epath.Path(folder) / 'items.json', 'draw the benchmark first')['items']


def _code(salt: str, method: str, item: str) -> str:
  return hashlib.sha256(f'{salt}/{method}/{item}'.encode()).hexdigest()[:16]


def _copy(file: epath.Path, page: epath.Path, code: str) -> str:
  if not file.exists():
    raise user_error(str(file), None, 'no such image; draw the benchmark to its end first')
  name = f'images/{code}{file.suffix}'
  write_bytes(page / name, file.read_bytes())
  return name


def _html(items: Sequence[Mapping[str, Any]], orders: Sequence[Any]) -> str:
  data = json.dumps(dict(items=items, orders=orders, axes=AXES, scale=SCALE))
  data = data.replace('<', '\\u003c')  # which would end the script
  return document('Study', '<h1>Which images are good?</h1><main></main>'
                  f'<script>const study = {data};{_SCRIPT}</script>', _STYLE)


_STYLE = 'main { margin: 2em 0 } main img { width: 240px; margin: 0 8px 8px 0; }'
# The address says who takes part, as index.html?p=7. Answers stay in the browser until the end.
_SCRIPT = '''
const person = Number(new URLSearchParams(location.search).get('p') || 0);
const ratings = JSON.parse(localStorage.getItem('ratings' + person) || '{}');
const main = document.querySelector('main');
const steps = (study.orders[person] || []).flatMap(
  ([item, codes]) => codes.map(code => [study.items[item], code]));
function make(tag, text, parent) {
  const node = document.createElement(tag);
  node.textContent = text; parent.append(node); return node;
}
function images(files) {
  for (const file of files) make('img', '', main).src = file;
}
function show() {
  const at = steps.findIndex(([, code]) => !study.axes || !ratings[code]
    || Object.keys(ratings[code]).length < Object.keys(study.axes).length);
  main.replaceChildren();
  if (!steps.length) return void make('p', 'This link has no number of a participant.', main);
  if (at < 0) return finish();
  const [item, code] = steps[at];
  make('p', (at + 1) + ' of ' + steps.length, main).className = 'dim';
  make('p', item.text, main);
  if (item.given.length) { make('h3', 'Given', main); images(item.given); }
  make('h3', 'Drawn', main); images(item.codes[code]);
  for (const [axis, words] of Object.entries(study.axes)) {
    const row = make('p', words + ' ', main);
    for (let mark = study.scale[0]; mark <= study.scale[1]; mark++) {
      make('button', mark, row).onclick = event => {
        (ratings[code] ||= {})[axis] = mark;
        localStorage.setItem('ratings' + person, JSON.stringify(ratings));
        for (const other of row.children) other.disabled = other === event.target;
        if (Object.keys(ratings[code]).length === Object.keys(study.axes).length) show();
      };
    }
  }
}
function finish() {
  const text = JSON.stringify({participant: person, ratings}, null, 1);
  const link = make('a', 'Thank you. Save your ratings and send the file back.', main);
  link.href = URL.createObjectURL(new Blob([text], {type: 'application/json'}));
  link.download = 'ratings_' + person + '.json';
}
show();
'''
