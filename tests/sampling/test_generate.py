"""Texts to images with a tiny IOMM: seeds, batches, devices, guidance, refusals and files."""

import copy
import json

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
from PIL import Image

from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.data.prompts import encode_prompts
from jaxgen.data.tokenizer import load_tokenizer
from jaxgen.sampling.generate import generate
from jaxgen.sampling.generate import trim
from jaxgen.sampling.images import image_grid
from jaxgen.sampling.images import save_images
from jaxgen.sharding.mesh import make_mesh

TEXTS = ['a red circle', 'two blue squares', 'a cross', 'a white triangle above a cross']


@pytest.fixture(scope='module')
def run(tiny_base, tiny_system):
  """A function that generates with random weights, none of them zero."""
  config, system = copy.deepcopy(tiny_base), tiny_system
  config.data.prompt_tokens = 96
  config.sampling.update(steps=4, guidance=3.0)
  tokenizer = load_tokenizer(config.data.tokenizer)
  rng = np.random.default_rng(0)
  params = trees.map_named(
      lambda _, leaf: np.float32(rng.normal(0.0 if leaf.ndim > 1 else 1.0, 0.1, leaf.shape)),
      system.shapes())

  def sample(texts, params=params, **options):
    return generate(system, params, texts, tokenizer=tokenizer, config=config,
                    **{'seed': 5, **options})

  sample.params, sample.tokenizer, sample.system, sample.config = params, tokenizer, system, config
  return sample


@pytest.fixture(scope='module')
def images(run):
  """Drawn on eight devices, all at once."""
  return run(TEXTS)


def near(left, right) -> bool:
  """Equal up to rounding to 8 bits at the last step."""
  return np.abs(left.astype(int) - right.astype(int)).max() <= 1


def test_shape_and_dtype(images):
  assert images.shape == (4, 16, 16, 3) and images.dtype == np.uint8
  assert images.std() > 10


def test_same_images_on_one_device_in_threes(run, images):
  assert jax.device_count() == 8
  one_device = make_mesh(run.config.mesh, jax.devices()[:1])
  assert near(run(TEXTS, rows=3, mesh=one_device), images)


def test_rules_of_the_run_say_where_parameters_lie(run, images):
  config, places = copy.deepcopy(run.config), set()
  config.mesh.rules = (('embed', (), True), ('mlp', ('fsdp',), True))

  def look(done, total):
    """At the kernels ``up`` of the language model, while all of it lies on the devices."""
    places.update(leaf.sharding.spec for leaf in jax.live_arrays()
                  if leaf.shape == (2, 32, 64) and isinstance(leaf.sharding, NamedSharding))

  drawn = generate(run.system, run.params, TEXTS, tokenizer=run.tokenizer, config=config, seed=5,
                   progress=look)
  assert PartitionSpec(None, None, ('fsdp',)) in places
  assert near(drawn, images)


def test_same_image_alone(run, images):
  assert near(run(TEXTS[2:3], image_ids=[2])[0], images[2])


def test_a_language_model_of_eight_bits_draws_nearly_the_same(run, images):
  config = copy.deepcopy(run.config)
  config.model.quantized = (('mllm/.*', 'int8'),)
  drawn = generate(run.system, run.params, TEXTS, tokenizer=run.tokenizer, config=config, seed=5)
  error = np.abs(drawn.astype(int) - images.astype(int))
  assert 0 < error.mean() < 0.02 * 255


def test_seed_text_and_number_matter(run, images):
  assert not near(run(TEXTS, seed=6), images)
  assert not near(run(TEXTS[::-1])[0], images[0])
  assert not near(run(TEXTS, image_ids=[4, 5, 6, 7]), images)
  assert not near(run(TEXTS[:1] * 4)[0], run(TEXTS[:1] * 4)[1])


def test_guidance(run, images):
  """Scale 1 is another program, of one forward; it is the limit of the guided one."""
  plain = run(TEXTS, guidance=1.0)
  assert not near(plain, images)
  assert near(plain, run(TEXTS, guidance=1.0 + 1e-6))


def test_trimming_changes_nothing(run):
  prompts = encode_prompts(TEXTS, run.tokenizer, run.system.layout, run.config.data)
  short = trim(prompts)
  assert prompts.tokens.shape[1] == 96 and short.tokens.shape[1] in (32, 64)
  length = short.tokens.shape[1]
  for name in ('tokens', 'segments', 'positions', 'image_index'):
    np.testing.assert_array_equal(getattr(short, name), getattr(prompts, name)[:, :length])
  assert not prompts.segments[:, length:].any()
  whole, cut = (jax.jit(run.system.condition)(run.params, each) for each in (prompts, short))
  real = np.asarray(short.segments) > 0
  np.testing.assert_allclose(np.asarray(cut.states)[:, :length][real],
                             np.asarray(whole.states)[:, :length][real], atol=1e-5)
  np.testing.assert_allclose(cut.states[:, length:], whole.states[:, 96:], atol=1e-5)


def test_non_finite_latents_are_refused(run):
  broken = jax.tree.map(lambda leaf: leaf * np.float32('nan'), run.params)
  with pytest.raises(UserError, match='a red circle.*not finite'):
    run(TEXTS, params=broken)


def test_long_prompt_is_refused(run):
  with pytest.raises(UserError, match='prompt_tokens = 96'):
    run(['circle ' * 200])


def test_size_must_fit_the_latents(run):
  config = copy.deepcopy(run.config)
  config.sampling.size = 18
  with pytest.raises(UserError, match='config.sampling.size = 18.*multiple of 4'):
    generate(run.system, run.params, TEXTS, tokenizer=run.tokenizer, config=config, seed=0)


def test_png_files(tmp_path, images):
  paths = save_images(images, TEXTS, str(tmp_path / 'out'))
  for path, image in zip(paths, images, strict=True):
    np.testing.assert_array_equal(np.asarray(Image.open(path)), image)
  prompts = json.loads((tmp_path / 'out/prompts.json').read_text())
  assert list(prompts.values()) == TEXTS and list(prompts)[0] == '0000.png'


def test_grid():
  images = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
  grid = image_grid(images, columns=2, gap=1)
  assert grid.shape == (5, 5, 3)
  np.testing.assert_array_equal(grid[..., 0], [
      [0, 0, 255, 1, 1], [0, 0, 255, 1, 1], [255] * 5, [2, 2, 255, 255, 255],
      [2, 2, 255, 255, 255]])
