"""``jaxgen data show``: golden text of four samples, the page with thumbnails, rows as loaded."""

import base64
import html
import io
import itertools
import json
import re

import numpy as np
import pytest
from PIL import Image

from jaxgen.config import source
from jaxgen.core.errors import UserError
from jaxgen.core.types import Latent
from jaxgen.core.types import Layout
from jaxgen.core.types import Text
from jaxgen.core.types import Vision
from jaxgen.data.loader import make_loader
from jaxgen.data.show import show
from jaxgen.data.sources import open_source

SEEING = Layout(latent=Latent(4, 48), vision=Vision('square', patch=4, merge=1, size=8), queries=2,
                scheme='flux')
RECORDS = {
    'image': [{'image': '03.png', 'role': 'target'}],
    'pair': [{'text': 'a red circle', 'role': 'user'}, {'image': '01.png', 'role': 'target'}],
    'edit': [{'image': '00.png', 'role': 'source'}, {'image': '02.png', 'role': 'reference'},
             {'text': 'turn <img> "blue"', 'role': 'user'}, {'image': '01.png', 'role': 'target'}],
    'dialogue': [{'text': 'a circle', 'role': 'user'}, {'image': '00.png', 'role': 'target'},
                 {'text': 'done', 'role': 'assistant', 'loss': True},
                 {'text': 'now red', 'role': 'user'}, {'image': '01.png', 'role': 'target'}],
}
# What `show` printed for them, looked through by eye.
GOLDEN = {
    'image': r'''
row 0: 1 of 1 segments, 16 of 64 visual tokens (75 % padding), 19 of 60 prompt tokens (68 % padding), 4 of 12 patches (67 % padding)
  sample image: source mine, task image
    parts
       1  user       "Generate an image that is identical to the reference image:"
       2  context    19x20 px image, language model sees 8x8 px as image 1, maskable
       3  target     19x20 px image, denoiser gets 16x16 px as target
    prompt: 19 tokens
      tokens  positions               shown at  loss  content
      0..10   (0 0 0)..(10 10 10)     (0 0 0)   -     "Generate an image that is identical to the reference image:" (11)
      11      (11 11 11)              (0 0 0)   -     <img>
      12..15  (12 12 12)..(15 15 15)  (0 0 0)   -     <image 1: 4>
      16      (16 16 16)              (0 0 0)   -     </img>
      17..18  (17 17 17)..(18 18 18)  (0 0 0)   -     <queries: 2>
    denoiser: 16 tokens
      part  size      tokens  role    positions
      3     16x16 px  4x4     target  (0 0 0)..(0 3 3)
''',
    'pair': r'''
row 0: 1 of 1 segments, 16 of 64 visual tokens (75 % padding), 9 of 60 prompt tokens (85 % padding), 0 of 12 patches (100 % padding)
  sample pair: source mine, task pair
    parts
       1  user       "Generate an image: a red circle"
       2  target     17x19 px image, denoiser gets 16x16 px as target
    prompt: 9 tokens
      tokens  positions         shown at  loss  content
      0..6    (0 0 0)..(6 6 6)  (0 0 0)   -     "Generate an image: a red circle" (7)
      7..8    (7 7 7)..(8 8 8)  (0 0 0)   -     <queries: 2>
    denoiser: 16 tokens
      part  size      tokens  role    positions
      2     16x16 px  4x4     target  (0 0 0)..(0 3 3)
''',
    'edit': r'''
row 0: 1 of 1 segments, 48 of 64 visual tokens (25 % padding), 31 of 60 prompt tokens (48 % padding), 8 of 12 patches (33 % padding)
  sample edit: source mine, task edit
    parts
       1  source     16x20 px image, language model sees 8x8 px as image 1, denoiser gets 16x16 px as clean latents
       2  reference  18x18 px image, language model sees 8x8 px as image 2, denoiser gets 16x16 px as clean latents
       3  user       "turn <img> \"blue\""
       4  target     17x19 px image, denoiser gets 16x16 px as target
    prompt: 31 tokens
      tokens  positions               shown at  loss  content
      0       (0 0 0)                 (0 0 0)   -     <img>
      1..4    (1 1 1)..(4 4 4)        (0 0 0)   -     <image 1: 4>
      5       (5 5 5)                 (0 0 0)   -     </img>
      6       (6 6 6)                 (0 0 0)   -     <img>
      7..10   (7 7 7)..(10 10 10)     (0 0 0)   -     <image 2: 4>
      11      (11 11 11)              (0 0 0)   -     </img>
      12..28  (12 12 12)..(28 28 28)  (0 0 0)   -     "turn <img> \"blue\"" (17)
      29..30  (29 29 29)..(30 30 30)  (0 0 0)   -     <queries: 2>
    denoiser: 48 tokens
      part  size      tokens  role           positions
      1     16x16 px  4x4     clean latents  (1 0 0)..(1 3 3)
      2     16x16 px  4x4     clean latents  (2 0 0)..(2 3 3)
      4     16x16 px  4x4     target         (0 0 0)..(0 3 3)
''',
    'dialogue': r'''
row 0: 1 of 1 segments, 32 of 64 visual tokens (50 % padding), 19 of 60 prompt tokens (68 % padding), 4 of 12 patches (67 % padding)
  sample dialogue: source mine, task dialogue
    parts
       1  user       "a circle"
       2  target     16x20 px image, language model sees 8x8 px as image 1, denoiser gets 16x16 px as clean latents
       3  assistant  "done"
       4  user       "now red"
       5  target     17x19 px image, denoiser gets 16x16 px as target
    prompt: 19 tokens
      tokens  positions               shown at  loss  content
      0..1    (0 0 0)..(1 1 1)        (0 0 0)   -     "a circle" (2)
      2       (2 2 2)                 (0 0 0)   -     <img>
      3..6    (3 3 3)..(6 6 6)        (0 0 0)   -     <image 1: 4>
      7       (7 7 7)                 (0 0 0)   -     </img>
      8..11   (8 8 8)..(11 11 11)     (0 0 0)   -     "done" (4)
      12      (12 12 12)              (0 0 0)   -     <|im_end|>
      13..16  (13 13 13)..(16 16 16)  (0 0 0)   -     "now red" (4)
      17..18  (17 17 17)..(18 18 18)  (0 0 0)   -     <queries: 2>
    denoiser: 32 tokens
      part  size      tokens  role           positions
      2     16x16 px  4x4     clean latents  (1 0 0)..(1 3 3)
      5     16x16 px  4x4     target         (0 0 0)..(0 3 3)
''',
}


@pytest.fixture
def config_of(make_config, folder, tmp_path):
  """A config whose only record is one of ``RECORDS``."""
  def make(task, **data):
    parts = [part | ({'image': str(folder / part['image'])} if 'image' in part else {})
             for part in RECORDS[task]]
    path = tmp_path / f'{task}.jsonl'
    path.write_text(json.dumps({'id': task, 'parts': parts}))
    fields = dict(clean_roles=('source', 'reference', 'context'), visual_tokens=64, patches=12,
                  prompt_tokens=60)
    return make_config({'mine': source('auto', 'auto', path=str(path))}, **{**fields, **data})
  return make


@pytest.mark.parametrize('task', RECORDS)
def test_golden(task, config_of, capsys):
  lines = show(config_of(task), SEEING)
  assert capsys.readouterr().out == '\n'.join(lines) + '\n'
  assert lines == GOLDEN[task].strip('\n').splitlines()


def test_captions_carry_loss_and_draw_nothing(config_of):
  config = config_of('pair')
  config.data.sources.mine.task = 'caption'
  text = '\n'.join(show(config, SEEING))
  assert 'assistant  " a red circle", loss' in text and 'denoiser' not in text.split('parts')[1]
  carriers = re.findall(r'\) +1 +(.*)', text)
  assert carriers == ['" a red circle" (3)', '<|im_end|>']


def test_text_towers_and_a_model_that_sees_nothing(config_of, tokenizer_folder):
  config = config_of('edit', prompt_tokens=24)
  config.data.tower_tokenizers.words = tokenizer_folder
  layout = Layout(latent=Latent(4, 48), towers={'words': Text('clip', 20)})
  text = '\n'.join(show(config, layout))
  assert re.search(r'tower words: 17 of 20 tokens, 17 shown at \(0 0 0\)\n +'
                   r'"turn <img> \\"blue\\""', text)
  assert 'language model sees' not in text and '<image' not in text
  assert 'source     16x20 px image, denoiser gets 16x16 px as clean latents' in text


def test_the_page_has_every_image_and_no_markup_of_the_user(config_of, tmp_path):
  show(config_of('edit'), SEEING, page=str(tmp_path / 'new/page.html'))
  page = (tmp_path / 'new/page.html').read_text()
  images = [np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
            for data in re.findall('src="data:image/png;base64,([^"]+)"', page)]
  # Source and reference: original, language model, denoiser; target: original and denoiser.
  assert [image.shape[:2] for image in images] == [
      (16, 20), (8, 8), (16, 16), (18, 18), (8, 8), (16, 16), (17, 19), (16, 16)]
  assert html.escape(r'turn <img> \"blue\"') in page and '<img> ' not in page
  assert '<script' not in page and 'http' not in page


@pytest.mark.parametrize('task', ['storyboard', 'control', 'guide', 'session'])
def test_drawn_tasks_are_shown_in_order(task, make_config, tmp_path):
  """The first record of the source: its texts, and every image of it with its role."""
  fields = {'count': '2', 'languages': 'en,zh'}
  config = make_config({'mine': source('shapes', 'auto', path=task, fields=tuple(fields.items()))},
                       clean_roles=('source', 'reference', 'context'), visual_tokens=96,
                       patches=16, prompt_tokens=300)
  lines = show(config, SEEING, page=str(tmp_path / 'page.html'))
  sample = open_source('shapes', task, size=16, fields=fields)[0]
  dialogue = task in ('guide', 'session')  # whose given images are context
  roles = ['context' if dialogue and part.role == 'source' else part.role for part in sample.parts]
  told = itertools.takewhile(lambda line: 'prompt: ' not in line, lines[3:])
  shown = [re.match(r' +\d+  (\w+)', line)[1] for line in told]
  assert shown == roles[:len(shown)]  # a dialogue ends at one target
  assert len(shown) == len(sample.parts) or dialogue
  page = (tmp_path / 'page.html').read_text()
  originals = re.findall(r'base64,([^"]+)"><figcaption>\d+ (\w+)<', page)
  assert originals
  images = [(role, part) for role, part in zip(roles, sample.parts) if part.is_image]
  for (data, found), (role, part) in zip(originals, images):
    assert found == role
    np.testing.assert_array_equal(Image.open(io.BytesIO(base64.b64decode(data))), part.image)
  for part in sample.texts[:1]:
    assert part.text in html.unescape(page)


def test_the_view_of_the_language_model_is_what_it_was_made_of(make_config, tmp_path):
  """Put together from the patches, the pixels are those of the file."""
  pixels = np.random.default_rng(0).integers(0, 255, (56, 56, 3), np.uint8)
  Image.fromarray(pixels).save(tmp_path / 'a.png')
  for vision, size in ((Vision('square', patch=14, merge=2, size=56), 56),
                       (Vision('native', patch=14, merge=2), 448)):
    config = make_config({'a': source('folder', 'image', path=str(tmp_path))}, patches=16,
                         vision_size=size)
    page = tmp_path / 'page.html'
    show(config, Layout(latent=Latent(4, 48), vision=vision), page=str(page))
    shown = re.findall('base64,([^"]+)"><figcaption>language model', page.read_text())
    (view,) = (np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in shown)
    np.testing.assert_array_equal(view, pixels)


def test_rows_are_those_of_the_loader(folder, make_config):
  sources = {'a': source('folder', 'pair', path=str(folder), share=(0.5,)),
             'b': source('folder', 'image', path=str(folder), share=(0.5,))}
  config = make_config(sources, segments_per_row=3, visual_tokens=48, prompt_tokens=120,
                       look_ahead=4, patches=12, dropout=dict(all=0.3))
  lines = show(config, SEEING, rows=4)
  loader = make_loader(config, SEEING)
  loaded = next(loader)
  loader.close()
  found = [line.split(': ')[0].removeprefix('  sample ') for line in lines
           if line.startswith('  sample ')]
  assert found == [name for row in loaded.ids for name in row] and len(found) > 6
  prompt = loaded.batch.prompt
  for row, line in enumerate(line for line in lines if line.startswith('row ')):
    assert f'{(prompt.segments[row] > 0).sum()} of 120 prompt tokens' in line


def test_broken_records_are_named(folder, tmp_path, make_config):
  (tmp_path / 'a.png').write_bytes((folder / '00.png').read_bytes()[:90])
  (tmp_path / 'b.png').write_bytes((folder / '00.png').read_bytes())
  config = make_config({'a': source('folder', 'image', path=str(tmp_path))}, max_bad_share=0.6)
  assert any(line.startswith(f'skipped {tmp_path}/a.png: ')
             for line in show(config, SEEING, rows=4))


def test_mistakes(config_of, tmp_path):
  with pytest.raises(UserError, match='^--rows = 9: use 1 to 4, the rows of a batch'):
    show(config_of('pair'), SEEING, rows=9)
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match='page.html: could not be written'):
    show(config_of('pair'), SEEING, page=str(tmp_path / 'file/page.html'))
