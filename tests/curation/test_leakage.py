"""Benchmarks stay out: their prompts, however they are set, and copies of their images."""

import json
import pathlib

import numpy as np
from PIL import Image
from PIL import ImageFilter
import pytest

from jaxgen import cli
from jaxgen.core.image_files import to_png
from jaxgen.curation.leakage import Known
from jaxgen.curation.leakage import unleaked
from jaxgen.curation.record import Lineage
from jaxgen.curation.record import Record
from jaxgen.data.sample import pair
from jaxgen.data.sources import open_source

LONG = 'Remove the small red car from the left side of the street'
TOY = str(pathlib.Path(__file__).parent / 'recipe_toy.py')


def picture(seed):
  rng = np.random.default_rng(seed)
  noise = Image.fromarray(rng.integers(0, 255, (96, 128, 3), np.uint8))
  values = np.asarray(noise.filter(ImageFilter.GaussianBlur(6)), np.float32)
  return ((values - values.mean()) * 6 + 128).clip(0, 255).astype(np.uint8)


def seen(image, text, known):
  made = unleaked(Record('a', dict(sample=pair('a', image, text)), Lineage('')), known=known)
  return getattr(made, 'reason', 'kept')


@pytest.fixture(scope='module')
def known():
  made = Known()
  made.add('bench', [('one', [LONG, 'remove the dog'],
                      [to_png(picture(seed)) for seed in range(40)])])
  return made


def test_prompts_are_known_however_they_are_set(known):
  assert seen(picture(99), '  remove the SMALL red car, from the left side\nof the street!', known
              ) == 'prompt of a benchmark'
  assert seen(picture(99), LONG + ' today', known) == 'kept'
  assert seen(picture(99), 'Remove the dog.', known) == 'kept'  # too common to be a leak


def test_copies_of_images_are_known(known, tmp_path):
  image = Image.fromarray(picture(7))
  copies = [image.resize((300, 220), Image.Resampling.BICUBIC), image.resize((64, 48))]
  for quality in (95, 40):
    image.save(tmp_path / 'copy.jpg', quality=quality)
    copies.append(Image.open(tmp_path / 'copy.jpg').convert('RGB'))
  for copy in copies:
    assert seen(np.asarray(copy), 'a text', known) == 'image of a benchmark'
  assert [seen(picture(seed), 'a text', known) for seed in range(50, 150)] == ['kept'] * 100


def test_a_run_is_checked_against_benchmarks_by_name(tmp_path, capsys):
  """One picture of the toy is an input of the benchmark."""
  out, clean = tmp_path / 'out', tmp_path / 'clean'
  assert cli.main(['curate', TOY, f'--out={clean}']) == 0
  source = open_source('arrayrecord', str(clean))
  leaked = source[5]
  folder = tmp_path / 'rise'
  (folder / 'images').mkdir(parents=True)
  (folder / 'images' / 'a.png').write_bytes(leaked.images[0].image)
  (folder / 'datav2_total_w_subtask.json').write_text(json.dumps([dict(
      index='a', category='temporal_reasoning', image='images/a.png', instruction=LONG,
      subtask='x')]))
  code = cli.main(['curate', TOY, f'--out={out}', f'--against=rise={folder}'])
  assert code == 0
  ids = [open_source('arrayrecord', str(out))[index].id for index in range(79)]
  assert leaked.id not in ids and len(open_source('arrayrecord', str(out))) == 79
  (folder / 'images' / 'a.png').write_bytes(leaked.images[0].image[:300])
  assert cli.main(['curate', TOY, f'--out={tmp_path / "no"}', f'--against=rise={folder}']) == 1
  assert 'an image of the benchmark cannot be read' in capsys.readouterr().err
  last = json.loads((out / 'info.json').read_text())['stages'][-1]
  assert last['stage'] == 'unleaked' and last['dropped'] == {'image of a benchmark': 1}
