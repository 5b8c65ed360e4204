"""Twenty small samples on disk, a tokenizer for their captions and a tiny config."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from jaxgen.config import base_config
from jaxgen.core.types import Latent
from jaxgen.core.types import Layout
from jaxgen.core.types import Vision
from jaxgen.data.commands import tokenizer_texts
from jaxgen.data.shapes import geneval
from jaxgen.data.tokenizer import load_tokenizer
from jaxgen.data.tokenizer import train_tokenizer


@pytest.fixture(scope='session')
def layout():
  return Layout(latent=Latent(4, 48), vision=Vision('square', patch=4, merge=1, size=8))


@pytest.fixture(scope='session')
def tokenizer_folder(tmp_path_factory):
  folder = str(tmp_path_factory.mktemp('tokenizer'))
  train_tokenizer(tokenizer_texts(geneval.captions()), 512, folder)
  return folder


@pytest.fixture(scope='session')
def tokenizer(tokenizer_folder):
  return load_tokenizer(tokenizer_folder)


@pytest.fixture(scope='session')
def folder(tmp_path_factory):
  """20 PNG files of several sizes with captions, as sidecars and in samples.jsonl."""
  return write_samples(tmp_path_factory.mktemp('twenty'), 20)


def write_samples(root: pathlib.Path, count: int) -> pathlib.Path:
  rng = np.random.default_rng(0)
  lines = []
  for index in range(count):
    image = rng.integers(0, 255, (16 + index % 5, 20 - index % 3, 3), np.uint8)
    name, caption = f'{index:02d}.png', f'a photo of a red circle {index}'
    Image.fromarray(image).save(root / name)
    (root / f'{index:02d}.txt').write_text(caption + '\n')
    lines.append(json.dumps({'file': name, 'caption': caption}))
  (root / 'samples.jsonl').write_text('\n'.join(lines) + '\n')
  return root


@pytest.fixture
def make_config(tokenizer_folder):
  """Builds a 16 px config from sources and ``data`` or ``train`` fields."""
  def make(sources, *, rows=4, steps=20, **data):
    config = base_config()
    config.data.tokenizer = tokenizer_folder
    for name, spec in sources.items():
      config.data.sources[name] = spec
    config.data.update(image_size=16, vision_size=8, visual_tokens=16, prompt_tokens=40,
                       threads=2, dropout=dict(all=0.0))
    config.data.update(data)
    config.train.update(rows=rows, steps=steps)
    return config
  return make
