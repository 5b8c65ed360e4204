"""From a folder to a batch: every layout of the same edits gives the same batches."""

import io

import jax
import numpy as np
import pytest
from PIL import Image

from jaxgen.config import source
from jaxgen.core.types import Latent
from jaxgen.core.types import Layout
from jaxgen.core.types import Vision
from jaxgen.data.loader import make_loader
from tests.data import test_layouts as layouts

SEEING = Layout(latent=Latent(4, 48), vision=Vision('square', patch=4, merge=1, size=8), queries=2,
                scheme='flux')
# Layouts that can hold any number of inputs, and those that need as many everywhere.
SIX = (layouts.omnigen2, layouts.echo, layouts.diffsynth, layouts.musubi, layouts.uno,
       layouts.sharegpt, layouts.uniworld, layouts.bagel)
PART = ((layouts.numbered, layouts.SOME), (layouts.folders, layouts.TWO),
        (layouts.top, layouts.ONE), (layouts.diffsynth_csv, layouts.EDITS[:3]))


@pytest.fixture
def batches(make_config):
  """Reads a path through the loader: arrays and pixels of the first batches, without the ids."""
  def read(path, steps=2, **data):
    fields = dict(clean_roles=('source', 'reference'), segments_per_row=2, visual_tokens=160,
                  prompt_tokens=140, patches=32, dropout=dict(all=0.3))
    config = make_config({'a': source('auto', path=str(path))}, rows=3, **{**fields, **data})
    loader = make_loader(config, SEEING)
    loaded = [next(loader) for _ in range(steps)]
    loader.close()
    return loaded
  return read


def assert_equal(left, right):
  """Everything that the models get, in every batch; names of samples are their layout's own."""
  for one, other in zip(left, right, strict=True):
    for name in ('visual', 'prompt'):
      jax.tree.map(np.testing.assert_array_equal, getattr(one.batch, name),
                   getattr(other.batch, name))
    assert one.images.keys() == other.images.keys()
    for size in one.images:
      for array, twin in zip(one.images[size], other.images[size], strict=True):
        np.testing.assert_array_equal(array, twin)


def test_layouts_of_the_same_six_samples_give_the_same_batches(tmp_path, batches):
  found = []
  for write in SIX:
    root = tmp_path / write.__name__
    root.mkdir()
    found.append(batches(write(root, layouts.EDITS)))
  assert any((loaded.batch.prompt.patch_images.max(axis=1) > 2).any() for loaded in found[0])
  for other in found[1:]:
    assert_equal(found[0], other)


@pytest.mark.parametrize('write, edits', PART, ids=lambda value: getattr(value, '__name__', ''))
def test_folders_give_the_batches_of_a_table(write, edits, tmp_path, batches):
  """Layouts that cannot hold all six samples, against a list of those that they hold."""
  roots = [tmp_path / 'left', tmp_path / 'right']
  for root in roots:
    root.mkdir()
  assert_equal(batches(write(roots[0], edits)), batches(layouts.omnigen2(roots[1], edits)))


def test_no_one_two_and_four_references_in_one_run(tmp_path, batches):
  edits = [layouts.Edit(f'r{count}', f'draw {count}',
                        tuple(layouts.png(10 * count + k) for k in range(count)),
                        layouts.png(90 + count)) for count in (0, 1, 2, 4)]
  loaded = batches(layouts.omnigen2(tmp_path, edits), steps=4, dropout=dict(all=0.0))
  counts = set()
  for one in loaded:
    visual = one.batch.visual
    for row in range(3):
      for segment in range(1, visual.segments[row].max() + 1):
        own = visual.segments[row] == segment
        clean = np.unique(visual.images[row][own & ~visual.is_target[row]])
        targets = np.unique(visual.images[row][own & visual.is_target[row]])
        assert len(targets) == 1
        counts.add(len(clean))
  assert counts == {0, 1, 2, 4}


def test_sources_stay_aligned_with_their_targets(tmp_path, batches):
  """An edit that changes nothing, its source stored twice as large: the crops show one part."""
  y, x = np.mgrid[0:24, 0:40]
  small = np.stack([6 * x, 10 * y, 0 * x + 90], axis=-1).astype(np.uint8)
  large = small.repeat(2, axis=0).repeat(2, axis=1)
  edit = layouts.Edit('same', 'change nothing', (encode(large),), encode(small))
  (one,) = batches(layouts.omnigen2(tmp_path, [edit]), steps=1, dropout=dict(all=0.0))
  (pixels, slots), = one.images.values()
  visual = one.batch.visual
  is_target = visual.is_target.reshape(-1)[slots]
  sources, targets = pixels[~is_target].astype(float), pixels[is_target].astype(float)
  assert len(sources) == len(targets) > 0
  # One pixel of shift would change red by 9 and green by 15.
  assert np.abs(sources - targets)[:, 2:-2, 2:-2].max() <= 4


def encode(pixels):
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, 'PNG')
  return buffer.getvalue()
