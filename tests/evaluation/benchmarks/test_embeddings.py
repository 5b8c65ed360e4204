"""Scores that are cosines: DreamBench's and those of storyboards, with masks by a process."""

import json
import shlex
import sys

import numpy as np
import pytest
from PIL import Image

from jaxgen import cli
from jaxgen.core.errors import UserError
from jaxgen.evaluation.benchmarks.commands import evaluate_benchmark
from jaxgen.evaluation.benchmarks.commands import Judging
from jaxgen.evaluation.benchmarks.masks import foregrounds
from jaxgen.features.embed import embed_images
from jaxgen.features.embed import embed_texts
from jaxgen.features.towers import open_tower
from jaxgen.features.vectors import unit
from tests.features import folders

# White on the left half of every image, nothing in those whose name says so.
SEGMENTER = '''
import json, sys
from PIL import Image
for line in sys.stdin:
  request = json.loads(line)
  image = Image.open(request['image'])
  mask = Image.new('L', image.size)
  if 'empty' not in request['image']:
    mask.paste(255, (0, 0, image.width // 2, image.height))
  mask.save(request['mask'])
  print(line, end='', flush=True)
'''


@pytest.fixture(scope='module')
def towers(tmp_path_factory):
  """Folders of a DINO and a CLIP."""
  root = tmp_path_factory.mktemp('towers')
  folders.save_dino(str(root / 'dino'))
  folders.save_clip(str(root / 'clip'))
  return dict(dino=str(root / 'dino'), clip=str(root / 'clip'))


def draw(file, seed):
  file.parent.mkdir(parents=True, exist_ok=True)
  pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), np.uint8)
  Image.fromarray(pixels).save(file)
  return pixels


def test_dreambench_by_hand_from_the_command_line(towers, tmp_path):
  """Two references: the mean of two cosines. The image of the second prompt is not there."""
  data, out = tmp_path / 'data', tmp_path / 'out'
  first, second = draw(data / 'dataset/dog/00.jpg', 0), draw(data / 'dataset/cat/00.jpg', 1)
  first, second = (np.asarray(Image.open(data / f'dataset/{name}/00.jpg'))
                   for name in ('dog', 'cat'))
  records = [dict(prompt=prompt, image_paths=['./dataset/dog/00.jpg', './dataset/cat/00.jpg'])
             for prompt in ('a dog and a cat', 'both on a beach')]
  (data / 'dreambench_multiip.json').write_text(json.dumps(records))
  drawn = draw(out / '0_0.png', 2)
  words = ['evaluate', '--benchmark=dreambench-multi', f'--data={data}', f'--out={out}']
  assert cli.main([*words, f'--dino={towers["dino"]}', f'--clip={towers["clip"]}']) == 0
  table = json.loads((out / 'scores.json').read_text())['table']
  assert (f'scored by dino of {towers["dino"]}, clip of {towers["clip"]}; masks: none; '
          in (out / 'report.md').read_text())
  for tower, name in (('dino', 'dino'), ('clip', 'clip_i')):
    own, *others = unit(embed_images(open_tower(towers[tower]), [drawn, first, second]))
    assert table[name]['value'] == pytest.approx((own @ others[0] + own @ others[1]) / 2, abs=1e-5)
    assert (table[name]['count'], table[name]['missing']) == (1, 1)
  tower = open_tower(towers['clip'])
  cosine = unit(embed_images(tower, [drawn]))[0] @ unit(embed_texts(tower, ['a dog and a cat']))[0]
  assert table['clip_t']['value'] == pytest.approx(cosine, abs=1e-5)


@pytest.fixture
def story(tmp_path):
  """``(data, out, images)`` of a story of three panels with two references."""
  data, out = tmp_path / 'data', tmp_path / 'out'
  references = [draw(data / f'{number}.png', number) for number in range(2)]
  panels = [draw(out / f'tale_{number}.png', 10 + number) for number in range(3)]
  (data / 'prompts.jsonl').write_text(json.dumps(dict(
      id='tale', prompt='a cat walks', outputs=3, references=['0.png', '1.png'])))
  return data, out, references, panels


def test_storyboards_by_the_equations_with_masks_that_are_made_once(towers, story, tmp_path):
  """IP is the mean over 3 x 2 pairs, TC over the 3 pairs of panels, of foregrounds."""
  data, out, references, panels = story
  command = f'{shlex.quote(sys.executable)} -c {shlex.quote(SEGMENTER)}'
  judging = Judging(towers=dict(dino=towers['dino']), masks=command)
  found = evaluate_benchmark('storyboard', str(data), str(out), judging=judging)
  masked = [np.concatenate([image[:, :12], np.zeros_like(image[:, 12:])], 1)
            for image in (*panels, *references)]
  vectors = unit(embed_images(open_tower(towers['dino']), masked))
  cosines = vectors @ vectors.T
  table = found['table']
  assert table['identity/dino']['value'] == pytest.approx(cosines[:3, 3:].mean(), abs=1e-5)
  tc = 2 / (3 * 2) * (cosines[0, 1] + cosines[0, 2] + cosines[1, 2])
  assert table['consistency/dino']['value'] == pytest.approx(tc, abs=1e-5)
  assert found['by'] == dict(towers=judging.towers, masks=command)
  made = {file: file.stat().st_mtime_ns for file in (out / 'masks').glob('*/*')}
  assert len(made) == 5
  again = evaluate_benchmark('storyboard', str(data), str(out), judging=judging)
  assert again['table'] == table
  assert made == {file: file.stat().st_mtime_ns for file in (out / 'masks').glob('*/*')}


def test_masks_of_another_segmenter_are_made_of_their_own(tmp_path):
  """The first is killed while it writes its second mask, which is made again."""
  images = {f'{number}.png': str(tmp_path / f'{number}.png') for number in range(2)}
  for path in images.values():
    Image.new('RGB', (24, 20), 'white').save(path)
  killed = tmp_path / 'killed.py'
  killed.write_text(SEGMENTER.replace('  mask.save', """
  if '1.png' in request['image']:
    open(request['mask'], 'wb').write(b'half a mask')
    sys.exit(1)
  mask.save"""))
  command = f'{shlex.quote(sys.executable)} {killed}'
  with pytest.raises(UserError, match='gave no answer for .*1.png'):
    list(foregrounds(images, str(tmp_path), command))
  for segmenter, kept in ((SEGMENTER, 12), (SEGMENTER.replace('// 2', '// 4'), 6)):
    program = killed if kept == 12 else tmp_path / 'other.py'
    program.write_text(segmenter)
    found = dict(foregrounds(images, str(tmp_path), f'{shlex.quote(sys.executable)} {program}'))
    assert [image.any((0, 2)).sum() for image in found.values()] == [kept, kept]


def test_a_panel_in_which_nothing_is_found_is_missing(towers, story):
  data, out, _, _ = story
  record = json.loads((data / 'prompts.jsonl').read_text()) | dict(id='empty')
  (data / 'prompts.jsonl').write_text(json.dumps(record))
  for panel in range(3):
    draw(out / f'empty_{panel}.png', panel)
  command = f'{shlex.quote(sys.executable)} -c {shlex.quote(SEGMENTER)}'
  found = evaluate_benchmark('storyboard', str(data), str(out), judging=Judging(
      towers=dict(dino=towers['dino']), masks=command))
  assert found['table']['consistency/dino']['value'] is None
  assert found['missing']['empty: identity/dino'] == 'no such image, or nothing found in it'
  Image.new('L', (3, 3), 255).save(next((out / 'masks').glob('*/empty_0.png.png')))
  with pytest.raises(UserError, match='is of another size than its image'):
    evaluate_benchmark('storyboard', str(data), str(out), judging=Judging(
        towers=dict(dino=towers['dino']), masks=command))


@pytest.mark.parametrize('words, said', [
    (['--benchmark=storyboard', '--masks=x'], "--masks = 'x': is for features; give --dino or"),
    (['--benchmark=storyboard', '--dino=TOWER', '--masks=false'],
     "--masks = 'false': gave no answer for"),
    (['--benchmark=storyboard', '--dino=nowhere'], "nowhere: no such folder or file")])
def test_mistakes(words, said, towers, story, capsys):
  data, out, _, _ = story
  words = [word.replace('TOWER', towers['dino']) for word in words]
  assert cli.main(['evaluate', f'--data={data}', f'--out={out}', *words]) == 1
  assert said in capsys.readouterr().err
