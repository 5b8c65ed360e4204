"""The engine: counts and reasons, lineage, kills, other engines, and what it refuses."""

import dataclasses
import fcntl
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse

import numpy as np
import PIL.Image
import pytest

from jaxgen import cli
from jaxgen.core.errors import UserError
from jaxgen.curation import record as records
from jaxgen.curation.commands import curate
from jaxgen.curation.engine import Job
from jaxgen.curation.record import Lineage
from jaxgen.curation.record import Record
from jaxgen.data.decode import decode
from jaxgen.data.sample import pair
from jaxgen.data.sources import open_source

ROOT = pathlib.Path(__file__).parents[2]
TOY = str(pathlib.Path(__file__).parent / 'recipe_toy.py')


def shards(folder):
  return {file.name: file.read_bytes() for file in pathlib.Path(folder).glob('*.arrayrecord')}


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  out = tmp_path_factory.mktemp('whole') / 'out'
  return out, curate(Job(TOY, '', str(out)))


def test_every_record_is_kept_or_dropped_for_a_reason(whole):
  _, tally = whole
  split, dark, first, paint, finished = tally.stages
  assert (split.entered, split.left, split.dropped) == (20, 114, {'broken': 1})
  for stage in (dark, first, paint, finished):
    assert stage.entered == stage.left + sum(stage.dropped.values())
  assert first.left == 80 == sum(tally.licences.values())
  assert dark.entered == 114 and 5 < dark.dropped['dark'] < 40


def test_samples_are_read_by_training_with_their_lineage(whole):
  out, _ = whole
  source = open_source('arrayrecord', str(out))
  assert len(source) == 80
  for sample in (source[0], source[79]):
    assert sample.lineage['source'] == sample.id.split('/')[0]
    assert sample.lineage['licence'] == 'CC0-1.0' and sample.lineage['notes']['level'] >= 20
    assert decode(sample.images[0].image).shape == (16, 16, 3)
  described = json.loads((out / 'recipe.json').read_text())
  assert described['recipe'] == source[0].lineage['recipe']
  assert described['stages'][1]['parameters'] == {'most': 20}


def test_groups_are_whole_and_in_the_order_of_the_input(whole):
  """The first 40 of each half, as a plain loop over all inputs finds them."""
  out, _ = whole
  source = open_source('arrayrecord', str(out))
  ids = sorted(source[index].id for index in range(len(source)))
  lit = [f'in{n:02d}/{k}' for n in range(19) for k in range(6)
         if Record(f'in{n:02d}/{k}', {}, Lineage('')).rng().integers(100) >= 20]
  halves = [[name for name in lit if int(name[-1]) % 2 == half][:40] for half in range(2)]
  assert ids == sorted(halves[0] + halves[1])


def test_the_report_shows_kept_and_dropped_of_every_filter(whole):
  page = (whole[0] / 'report.html').read_text()
  sections = {part.split('<')[0]: part for part in page.split('<h2>')}
  assert 'broken: 1' in sections['split'] and 'cut short' in sections['split']
  for stage, reason in (('dark', 'dark'), ('first', 'too many')):
    kept, dropped = re.split(r'<h3 class="bad">', sections[stage])
    assert 4 <= kept.count('<figure>') <= 8 and reason in dropped and '<figure>' in dropped
  assert sections['paint'].count('data:image/jpeg') == 4  # two buckets, two each


def kill_behind(words, reached):
  """Starts a slow run of the toy recipe, and kills it when it has got so far."""
  slow = subprocess.Popen(words, cwd=ROOT, env={**os.environ, 'TOY_SECONDS': '0.03'},
                          stderr=subprocess.DEVNULL)
  while not reached():
    assert slow.poll() is None
    time.sleep(0.01)
  slow.send_signal(signal.SIGKILL)
  slow.wait()


def test_a_killed_run_goes_on_to_the_same_bytes(whole, tmp_path):
  """Killed in the first phase, at its end, and in the second one."""
  words = [sys.executable, '-m', 'jaxgen.cli', 'curate', TOY, f'--out={tmp_path / "out"}']
  for done in (2, 6, 9):
    kill_behind(words, lambda: len(list(tmp_path.glob('out/chunks/*.json'))) >= done)
    assert not (tmp_path / 'out' / 'info.json').exists()
  kept = {file: file.stat().st_mtime_ns for file in tmp_path.glob('out/chunks/*.json')}
  assert any(file.name.startswith('1-') for file in kept)
  subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
  assert shards(tmp_path / 'out') == shards(whole[0])
  assert (tmp_path / 'out' / 'report.html').read_text() == (whole[0] / 'report.html').read_text()
  assert all(file.stat().st_mtime_ns == when for file, when in kept.items())
  assert not (tmp_path / 'out' / 'work').exists()


def test_what_a_kill_leaves_half_written_is_made_again(whole, tmp_path):
  out = tmp_path / 'out'
  shutil.copytree(whole[0], out)
  victim = next(out.glob('*.arrayrecord'))
  chunk = int(victim.name[5:10])
  (out / f'.{victim.name}.new').write_bytes(victim.read_bytes()[:100])
  victim.unlink()
  (out / 'chunks' / f'1-{chunk:05d}.json').unlink()
  for file in out.glob('chunks/0-*.json'):
    file.unlink()
  curate(Job(TOY, '', str(out)))
  assert shards(out) == shards(whole[0])


@pytest.mark.slow
def test_ray_gives_the_same_bytes(whole, tmp_path):
  """Slow: Ray starts a handful of processes."""
  out = tmp_path / 'out'
  subprocess.run([sys.executable, '-m', 'jaxgen.cli', 'curate', TOY, f'--out={out}',
                  '--engine=ray', '--workers=2'], cwd=ROOT, check=True, capture_output=True,
                 env={**os.environ, 'PYTHONPATH': str(ROOT)})
  assert shards(out) == shards(whole[0])
  assert (out / 'report.html').read_text() == (whole[0] / 'report.html').read_text()


def objects(folder):
  """Contents by name of what ``s3://b/out`` holds, in a bucket of ``bucket.Bucket``."""
  files = {urllib.parse.unquote(file.name): file.read_bytes()
           for file in folder.iterdir() if file.suffix != '.part'}
  return {name.removeprefix('b/out/'): data for name, data in files.items()}


def test_a_killed_run_in_a_bucket_goes_on_to_the_same_bytes(whole, tmp_path):
  """Killed in both phases."""
  words = [sys.executable, '-m', 'tests.curation.bucket', str(tmp_path), 'curate', TOY,
           '--out=s3://b/out']
  for done in (2, 9):
    kill_behind(words, lambda: len(list(tmp_path.glob('*%2Fchunks%2F*'))) >= done)
    assert 'info.json' not in objects(tmp_path)
  kept = {file: file.stat().st_mtime_ns for file in tmp_path.glob('*%2Fchunks%2F*')}
  subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
  assert all(file.stat().st_mtime_ns == when for file, when in kept.items())
  expected = {str(file.relative_to(whole[0])): file.read_bytes()
              for file in whole[0].rglob('*') if file.is_file()}
  assert objects(tmp_path) == expected


def test_a_bucket_that_cannot_be_reached_is_one_line(capsys):
  for place, message in (('ftp://b/out', "could not be reached .*; buckets are gs://, s3://"),
                         ('az://b/out', 'could not be reached .*; pip install adlfs, set EPATH_')):
    assert cli.main(['curate', TOY, f'--out={place}']) == 1
    out, err = capsys.readouterr()
    assert out == '' and err.count('\n') == 1
    assert re.match(f'jaxgen: {place}: {message}', err)


GPUS = """
import os
import ray
from jaxgen.curation import readers
from jaxgen.curation.recipe import Group, Recipe, Stage, Use
from jaxgen.data.sample import Part, Sample

def held(record, name, model=None):
  found = ray.get_runtime_context().get_accelerator_ids()['GPU']
  return record.having(key='one').noting(
      **{name: [found, os.environ.get('CUDA_VISIBLE_DEVICES')]})

def sample(records):
  for record in records:
    yield record.having(sample=Sample(record.id, (Part('assistant', text='a', loss=True),)))

def get_recipe():
  return Recipe(readers.listed('a', 'b', 'c'),
                [Stage(held, name='words', model=Use('words')),
                 Group(sample, 'key'), Stage(held, name='eyes', model=Use('eyes'))],
                models={'words': 'chat:m@http://127.0.0.1:9/v1', 'eyes': 'tower:none'},
                chunk=1, buckets=2)
"""


@pytest.mark.slow
def test_ray_gives_gpus_to_workers_that_run_a_model(tmp_path, monkeypatch):
  """Slow: Ray starts a handful of processes. It takes the one GPU on our word."""
  ray = pytest.importorskip('ray')
  monkeypatch.setenv('PYTHONPATH', str(ROOT))
  (tmp_path / 'recipe.py').write_text(GPUS)
  job = Job(str(tmp_path / 'recipe.py'), '', str(tmp_path / 'out'), workers=2)
  ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
  try:
    curate(job, 'ray', gpus=1)
    source = open_source('arrayrecord', job.out)
    notes = [source[index].lineage['notes'] for index in range(len(source))]
    # The endpoint runs elsewhere; the tower is never asked, so that it need not exist.
    assert len(notes) == 3 and all(note['words'][0] == [] for note in notes)
    assert all(note['eyes'] == [['0'], '0'] for note in notes)
    with pytest.raises(UserError, match='--gpus-per-worker = 2: no machine of Ray has more than 1'):
      curate(dataclasses.replace(job, out=str(tmp_path / 'other')), 'ray', gpus=2)
  finally:
    ray.shutdown()


def test_threads_do_not_change_a_byte(whole, tmp_path):
  text = pathlib.Path(TOY).read_text().replace('chunk=3', 'chunk=3, threads=4')
  (tmp_path / 'recipe.py').write_text(text)
  curate(Job(str(tmp_path / 'recipe.py'), '', str(tmp_path / 'out')))
  both = [open_source('arrayrecord', str(out)) for out in (tmp_path / 'out', whole[0])]
  assert len(both[0]) == len(both[1])
  for index in range(len(both[0])):
    one, other = (source[index] for source in both)
    # Only the recipe's hash differs.
    assert dataclasses.replace(one, lineage={}, origin='') == dataclasses.replace(
        other, lineage={}, origin='')
  pages = [(out / 'report.html').read_text() for out in (tmp_path / 'out', whole[0])]
  assert pages[0].replace(str(tmp_path / 'recipe.py'), TOY) == pages[1]


@pytest.mark.parametrize('change, message', [
    (('most=20', 'most=21'), 'holds a run with another recipe'),
    (('dark, most', 'dark, more'), 'in stage dark'),
    (('return Recipe(', 'return 7 or Recipe('), 'get_recipe.. must return a Recipe'),
    (('get_recipe', 'get_config'), "has no attribute 'get_recipe'"),
    (('side=16)]', 'side=16), Stage(dark, most=Use("x"))]'), r"line \d+: NameError: name 'Use'"),
    (('chunk=3', 'chunk=0'), 'chunk = 0: must be 1 or more'),
    (('sample=pair', 'example=pair'), 'must have a field "sample"')])
def test_mistakes_are_named(whole, tmp_path, change, message):
  (tmp_path / 'recipe.py').write_text(pathlib.Path(TOY).read_text().replace(*change))
  out = tmp_path / 'out'
  if 'another' in message:
    shutil.copytree(whole[0], out)
  kind = TypeError if 'in stage' in message else UserError
  with pytest.raises(kind) as caught:
    curate(Job(str(tmp_path / 'recipe.py'), '', str(out)))
  assert re.search(message, ' '.join([str(caught.value), *getattr(
      caught.value, '__notes__', ())]))


def test_inputs_and_images_that_cannot_be_read_are_counted(tmp_path):
  (tmp_path / 'recipe.py').write_text('''
from jaxgen.curation import readers
from jaxgen.curation.recipe import Recipe, Stage
def get_recipe():
  return Recipe(readers.samples(), [Stage(lambda record: record)])
''')
  image = np.zeros((8, 8, 3), np.uint8)
  PIL.Image.fromarray(image).save(tmp_path / 'a.png')
  (tmp_path / 'b.png').write_bytes(b'none')
  (tmp_path / 'c.png').write_bytes((tmp_path / 'a.png').read_bytes())
  (tmp_path / 'c.txt').write_bytes(b'\xff\xfe\xff')
  tally = curate(Job(str(tmp_path / 'recipe.py'), str(tmp_path), str(tmp_path / 'out')))
  first, last = tally.stages
  assert (first.entered, first.dropped) == (3, {'broken': 1})
  assert 'c.txt' in first.examples['broken'][0]['source']
  assert (last.left, last.dropped) == (1, {'broken': 1})


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
  """And what a stage raises is not taken for it."""
  with pytest.raises(UserError, match='could not be written'):
    curate(Job(TOY, '', '/dev/full/out'))
  text = pathlib.Path(TOY).read_text().replace("raise DecodeError('cut short')",
                                               "open('/nowhere/at/all')")
  (tmp_path / 'recipe.py').write_text(text)
  with pytest.raises(FileNotFoundError):
    curate(Job(str(tmp_path / 'recipe.py'), '', str(tmp_path / 'out')))


def test_a_folder_of_something_else_is_left_alone(tmp_path):
  (tmp_path / 'mine.txt').write_text('kept')
  with pytest.raises(UserError, match='not empty'):
    curate(Job(TOY, '', str(tmp_path)))
  assert [file.name for file in tmp_path.iterdir()] == ['mine.txt']


def test_two_runs_never_write_the_same_folder(whole):
  out, _ = whole
  with open(out / 'curation.lock', 'a') as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    with pytest.raises(UserError, match='--out = .*: in use: curation by'):
      curate(Job(TOY, '', str(out)))
  curate(Job(TOY, '', str(out)))
  assert not (out / 'curation.lock').exists()


def test_records_survive_the_disk():
  image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
  record = Record('a/b', dict(
      text='ü', nested=dict(flow=np.ones((2, 3), np.float32), files=[b'1', b'']), none=None,
      sample=pair('p', image, 'caption')), Lineage('in', 'MIT', 'http://x', dict(motion=0.5)))
  again = records.from_bytes(records.to_bytes(record))
  assert (again.id, again.lineage, again['text'], again['none']) == (
      'a/b', record.lineage, 'ü', None)
  assert again['nested']['files'] == [b'1', b'']
  np.testing.assert_array_equal(again['nested']['flow'], np.ones((2, 3)))
  np.testing.assert_array_equal(decode(again['sample'].images[0].image), image)
