"""The user study: nothing on the page tells a method; ratings give means, intervals, agreement."""

import collections
import json
import re

import numpy as np
import pytest
from PIL import Image

from jaxgen import cli
from jaxgen.core.errors import UserError
from jaxgen.evaluation import study


@pytest.fixture
def results(tmp_path):
  """Two methods that drew six items of two images each."""
  folders = {}
  for level, method in enumerate(('ours', 'other_method')):
    folder = tmp_path / method
    folder.mkdir()
    entries = [dict(key=f'item{number}', text=f'A <b>fox</b> {number}.',
                    files=[f'{number}_0.png', f'{number}_1.png'], given=[str(folder / 'given.png')])
               for number in range(6)]
    for name in ('given.png', *(file for entry in entries for file in entry['files'])):
      Image.new('RGB', (8, 8), (level, 0, 0)).save(folder / name)
    (folder / 'items.json').write_text(json.dumps(dict(items=entries)))
    folders[method] = str(folder)
  return folders


def test_the_page_hides_the_methods(results, tmp_path):
  page = study.make_study(results, str(tmp_path / 'study'), items=3, participants=4)
  text = open(page).read()
  assert not any(method in text for method in results) and '<b>fox' not in text
  data = json.loads(re.search(r'const study = (\{.*?\});\n', text)[1])
  assert [item['text'] for item in data['items']] == [
      f'A <b>fox</b> {number}.' for number in (0, 2, 4)]
  key = json.loads((tmp_path / 'study/key.json').read_text())['codes']
  codes = [code for item in data['items'] for code in item['codes']]
  assert set(codes) == key.keys() and len(codes) == 6
  for code, own in key.items():
    file = next(files for item in data['items'] for code_, files in item['codes'].items()
                if code_ == code)[0]
    red = np.asarray(Image.open(tmp_path / 'study/page' / file))[0, 0, 0]
    assert red == list(results).index(own['method'])
  shown = [order for order in data['orders'] for _, order in order]
  assert all(len(order) == 2 for order in shown) and len(data['orders']) == 4
  with pytest.raises(UserError, match='not empty'):
    study.make_study(results, str(tmp_path / 'study'))


def test_orders_differ_and_are_balanced():
  codes = [[f'{item}{method}' for method in 'abc'] for item in range(5)]
  orders = study.orders_of(codes, 6, seed=1)
  assert len({tuple(item for item, _ in order) for order in orders}) > 1
  places = collections.Counter((item, place, code) for order in orders for item, own in order
                               for place, code in enumerate(own))
  assert len(places) == 5 * 3 * 3 and set(places.values()) == {2}


def rating(participant, method, value, item='i', axis='IF'):
  return dict(participant=participant, method=method, item=item, axis=axis, value=value)


def test_agreement_by_hand():
  """Two units, (1, 2) and (4, 4): 1 - (2/4) / (2 (4 37 - 11^2) / 12) of squared distances."""
  ratings = [rating(1, 'a', 1), rating(2, 'a', 2), rating(1, 'b', 4), rating(2, 'b', 4),
             rating(1, 'c', 5)]
  assert study.alpha(ratings) == pytest.approx(1 - (2 / 4) / (2 * (4 * 37 - 11**2) / 12))
  assert study.alpha([rating(1, 'a', 3), rating(2, 'a', 3)]) is None
  assert study.alpha([rating(1, 'a', 3)]) is None
  rng = np.random.default_rng(0)
  noise = [rating(person, 'a', int(rng.integers(1, 6)), item=str(item))
           for person in range(20) for item in range(20)]
  assert abs(study.alpha(noise)) < 0.05


@pytest.mark.parametrize('content', (
    {'ratings': {}}, {'participant': 'me', 'ratings': {}}, {'participant': 1, 'ratings': [5]},
    {'participant': 1, 'ratings': {'a': 5}}))
def test_files_of_another_form_are_refused(tmp_path, content):
  file = tmp_path / 'ratings.json'
  file.write_text(json.dumps(content))
  with pytest.raises(UserError, match='is no file that the page of a study has saved'):
    study.read_ratings([str(file)], {'codes': {'a': {}}})


def test_means_with_intervals_over_participants():
  """Each person gives one value to all items: the interval is that of five people, not of 50."""
  ratings = [rating(person, 'a', 1 + person, item=str(item))
             for person in range(5) for item in range(10)]
  found = study.aggregate(ratings)
  cell = found['table']['a']['IF']
  assert cell['value'] == 3 and cell['count'] == 50 and found['participants'] == 5
  spread = 1.96 * np.std(np.arange(1, 6)) / np.sqrt(5)
  assert cell['low'] == pytest.approx(3 - spread, abs=0.15)
  assert cell['high'] == pytest.approx(3 + spread, abs=0.15)


def test_the_commands(results, tmp_path, capsys):
  out = tmp_path / 'study'
  given = [f'--results={method}={folder}' for method, folder in results.items()]
  assert cli.main(['study', 'make', *given, f'--out={out}', '--items=2']) == 0
  key = json.loads((out / 'key.json').read_text())['codes']
  files = []
  for participant in range(3):
    ratings = {code: {axis: 5 if own['method'] == 'ours' else 2 for axis in study.AXES}
               for code, own in key.items()}
    files.append(tmp_path / f'{participant}.json')
    files[-1].write_text(json.dumps(dict(participant=participant, ratings=ratings)))
  assert cli.main(['study', 'score', f'--study={out}', *map(str, files)]) == 0
  said = capsys.readouterr().out
  assert re.search(r'ours +IF  5\.000', said) and 'agreement OQ: 1.000' in said
  assert json.loads((out / 'study.json').read_text())['table']['other_method']['TC']['value'] == 2
  assert cli.main(['study', 'score', f'--study={out}', str(files[0]), str(files[0])]) == 1
  assert 'this participant is in two files' in capsys.readouterr().err
  for ratings, message in (({'code': {'IF': 1}}, 'is no image of this study'),
                           ({next(iter(key)): {'IF': 6}}, 'ratings are 1 to 5')):
    files[0].write_text(json.dumps(dict(participant=9, ratings=ratings)))
    assert cli.main(['study', 'score', f'--study={out}', str(files[0])]) == 1
    assert message in capsys.readouterr().err
  assert cli.main(['study', 'make', given[0], f'--out={tmp_path / "new"}']) == 1
  assert 'name two methods or more' in capsys.readouterr().err
