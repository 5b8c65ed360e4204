"""Drawn tasks: seeded and endless, divided into training and test, and told in few words."""

import collections
import pathlib

import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.data import tasks
from jaxgen.data.commands import tokenizer_texts
from jaxgen.data.shapes import phrases
from jaxgen.data.shapes import scenes
from jaxgen.data.shapes import stories
from jaxgen.data.shapes.problems import Picture
from jaxgen.data.shapes.problems import Settings
from jaxgen.data.shapes.scenes import Item
from jaxgen.data.shapes.scenes import Scene
from jaxgen.data.shapes.source import DRAWN
from jaxgen.data.shapes.source import DrawnSource
from jaxgen.data.shapes.source import parse_settings
from jaxgen.data.shapes.source import texts
from jaxgen.data.sources import open_source
from jaxgen.data.tokenizer import train_tokenizer

BOTH = ('en', 'zh')
KINDS = {'scene': 'pair', 'partial': 'pair', 'transformation': 'reference', 'control': 'reference',
         'reference': 'reference', 'edit': 'edit', 'transition': 'edit', 'reconstruction': 'edit',
         'style': 'edit', 'guide': 'dialogue', 'session': 'dialogue'}
SERIES = {'multi_turn': (2, 4), 'views': (1, 4), 'storyboard': (2, 4), 'guide': (2, 4),
          'session': (2, 4)}


@pytest.mark.parametrize('task', DRAWN)
def test_samples_are_seeded_and_read_as_their_task(task):
  first, again, other = (open_source('shapes', task, size=32, seed=seed) for seed in (3, 3, 4))
  kinds, outputs = set(), set()
  for index in range(40):
    sample, copy = first[index], again[index]
    assert sample.id == copy.id and len(sample.parts) == len(copy.parts)
    for part, twin in zip(sample.parts, copy.parts):
      assert part.text == twin.text
      np.testing.assert_array_equal(part.image, twin.image)
    kinds.add(tasks.kind_of(sample))
    outputs.add(len(sample.targets))
  assert kinds == {KINDS.get(task, 'many_to_many')} or task == 'views' and 'edit' in kinds
  least, most = SERIES.get(task, (1, 1))
  assert outputs == set(range(least, most + 1))
  assert any((first[index].targets[0].image != other[index].targets[0].image).any()
             for index in range(3))


@pytest.mark.parametrize('task', DRAWN)
def test_training_shows_nothing_of_what_is_held_out(task):
  settings = Settings(((32, 32),), ((2, 2), (3, 3)), BOTH)
  keys, shown = {}, {}
  for split in ('train', 'test'):
    problems = [DrawnSource(task, settings, split).problem(index)[0] for index in range(300)]
    keys[split] = [problem.keys for problem in problems]
    shown[split] = {item.key for problem in problems for part in problem.parts
                    if isinstance(part, Picture) and part.scene.style != 'outline'
                    for item in part.scene.items if item}
  seen = set().union(*keys['train'])
  assert not any(map(scenes.held_out, seen | shown['train'])) or task == 'partial'  # divided by its captions
  assert all(set(found) - seen for found in keys['test']) or task == 'partial'


def test_one_in_six_items_of_every_kind_is_held_out():
  for kind in ('plain', 'patterned'):
    train, test = (scenes.items(kind, split) for split in ('train', 'test'))
    assert not set(train) & set(test) and set(train) | set(test) == set(scenes.items(kind, 'all'))
    assert 0.08 < len(test) / (len(train) + len(test)) < 0.25
    for field in ('shape', 'pattern'):
      assert {getattr(item, field) for item in train} == {getattr(item, field)
                                                          for item in scenes.items(kind, 'all')}


def test_no_text_tells_a_pattern_or_a_second_colour():
  words = ' '.join(form for forms in phrases.PHRASES.values() for both in forms.values()
                   for form in both)
  for word in ('stripe', 'dot', 'ring', 'check', 'pattern'):
    assert word not in words.replace('bring', '')
  for problem in (DrawnSource('reference', Settings(((32, 32),))).problem(index)[0]
                  for index in range(100)):
    said = ' '.join(part.text for part in problem.parts if not isinstance(part, Picture))
    colors = {color for item in problem.targets[0].identity for color in item.colors}
    assert not colors & set(said.split())


def test_views_move_the_camera():
  scene = Scene((2, 2), (Item('circle', ('red',)), None, Item('cross', ('blue',)), None))
  red, blue = scene.items[0], scene.items[2]
  assert stories.panned(scene, 'right').items == (None, red, None, blue)
  assert stories.panned(scene, 'down').items == (blue, None, red, None)
  assert stories.turned(scene, 'right').items == (None, None, red, blue)
  assert stories.turned(stories.turned(scene, 'right'), 'left') == scene
  for way, back in (('left', 'right'), ('up', 'down')):
    assert stories.panned(stories.panned(scene, way), back) == scene


def test_changes_do_what_they_say():
  counts = collections.Counter()
  for index in range(200):
    problem, _ = DrawnSource('edit', Settings(((32, 32),))).problem(index)
    picture, = problem.targets
    before, after = picture.before, picture.scene
    assert after != before
    kind = problem.keys[0].split()[0]
    counts[kind] += 1
    changed = [cell for cell in range(4) if before.items[cell] != after.items[cell]]
    assert len(changed) == {'move': 2, 'swap': 2, 'ground': 0}.get(kind, 1), problem
    assert (before.ground != after.ground) == (kind == 'ground')
    grown = len(after.filled) - len(before.filled)
    assert grown == {'add': 1, 'remove': -1}.get(kind, 0)
  assert set(counts) == {'add', 'remove', 'replace', 'recolour', 'move', 'swap', 'ground'}


def test_one_small_tokenizer_has_words_for_everything(tmp_path):
  found = texts('all', Settings(((32, 32),)), '--path')
  tokenizer = train_tokenizer(tokenizer_texts(found), 512, str(tmp_path))
  assert max(len(tokenizer.encode(f' {text}')) for text in found) <= 64


def test_a_tokenizer_learns_the_languages_that_it_is_told(tmp_path):
  """768 tokens of both: Chinese takes fewer of them than English."""
  tasks = 'scene,edit,reference,transformation,reconstruction'
  said = {language: texts(tasks, Settings(((32, 32),), languages=(language,)), '--path')
          for language in BOTH}
  lengths = {}
  for name, learned in (('en', said['en']), ('both', said['en'] + said['zh'])):
    tokenizer = train_tokenizer(tokenizer_texts(learned), 768, str(tmp_path / name))
    lengths[name] = {language: max(len(tokenizer.encode(text)) for text in found[::7])
                     for language, found in said.items()}
  assert lengths['both']['zh'] < lengths['both']['en'] <= 48
  assert lengths['en']['zh'] > 2 * lengths['both']['zh']


@pytest.mark.parametrize('path, fields, said', [
    ('drawing', {}, 'drawn tasks are scene, partial, edit'),
    ('edit', {'grid': '2x2'}, 'drawn tasks have the fields sizes, grids, languages, count'),
    ('edit', {'grids': '5x5', 'sizes': '64'}, 'grids have 2 to 4 rows'),
    ('edit', {'grids': '1x1'}, 'grids have 2 to 4 rows'),
    ('reference', {'grids': '1x4', 'sizes': '64'}, 'grids have 2 to 4 rows'),
    ('edit', {'grids': '0x2'}, 'grids have 2 to 4 rows'),
    ('edit', {'grids': '4x4', 'sizes': '24x32'}, 'the image has 24x32'),
    ('edit', {'grids': 'two'}, 'write numbers as 32'),
    ('edit', {'languages': 'fr'}, 'use en or zh'),
    ('edit', {'count': '3-2'}, 'write a number, or least-most'),
    ('edit,views', {}, 'name one drawn task for each source'),
    ('', {'grids': '2x2'}, 'captions have no settings'),
])
def test_mistakes_are_told(path, fields, said):
  with pytest.raises(UserError, match=said):
    open_source('shapes', path, size=32, fields=fields)


@pytest.mark.parametrize('task', DRAWN)
def test_the_page_has_the_texts_of_its_picture(task):
  """As ``tools/draw_tasks.py`` prints them."""
  page = (pathlib.Path(__file__).parents[3] / 'docs/shapes.md').read_text()
  sample = DrawnSource(task, Settings(((64, 64),), count=(2, 3)))[0]
  row = next(line for line in page.splitlines() if line.startswith(f'| `{task}` |'))
  assert row.endswith(f'| {" / ".join(part.text for part in sample.texts)} |')


def test_settings_are_kept():
  settings = parse_settings({'sizes': '32x48,64', 'grids': ('2x2', '2x3'), 'languages': 'zh',
                             'count': '2'}, 16, '')
  assert settings == Settings(((32, 48), (64, 64)), ((2, 2), (2, 3)), ('zh',), (2, 2))
  source = open_source('shapes', 'storyboard', fields={'sizes': '32x48', 'count': '3'})
  for index in range(10):
    sample = source[index]
    assert len(sample.targets) == 3
    assert {part.image.shape for part in sample.images} == {(32, 48, 3)}
