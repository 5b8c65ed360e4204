"""Requests to images with a tiny IOMM: seeds, batches, devices, guidance, given images, errors."""

import copy
import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.data.examples import ExampleMaker
from jaxgen.sampling.batching import make_batch
from jaxgen.sampling.generate import generate
from jaxgen.sampling.generate import solve
from jaxgen.sampling.images import image_grid
from jaxgen.sampling.request import make_request
from jaxgen.sampling.request import make_requests
from jaxgen.sampling.schedules import linear_sigmas
from jaxgen.sharding import partition
from jaxgen.sharding.mesh import make_mesh

TEXTS = ['a red circle', 'two blue squares', 'a cross', 'a white triangle above a cross']


class Runner:
  """A system with random weights, none of them zero, that draws."""

  def __init__(self, config, system):
    self.config, self.system = config, system
    self.maker = ExampleMaker.of(config, system.layout)
    self.mesh = make_mesh(config.mesh, jax.devices()[:1])
    rng = np.random.default_rng(0)
    self.params = trees.map_named(
        lambda _, leaf: np.float32(rng.normal(0.0 if leaf.ndim > 1 else 1.0, 0.1, leaf.shape)),
        system.shapes())

  def requests(self, texts=TEXTS, seed=5, **options):
    return make_requests(self.config, texts, seed=seed, **options)

  def draw(self, requests, **options):
    """One array for each request, of all of its outputs; on one device unless told otherwise."""
    drawn = generate(self.system, **{'params': self.params, 'maker': self.maker, 'mesh': self.mesh,
                                     'config': self.config, 'requests': requests, **options})
    return [np.stack(outputs) for outputs in drawn]


@pytest.fixture(scope='module')
def run(tiny_base, tiny_system):
  config = copy.deepcopy(tiny_base)
  config.data.prompt_tokens = 96
  config.sampling.update(steps=3, guidance=3.0)
  return Runner(config, tiny_system)


@pytest.fixture(scope='module')
def images(run):
  """Drawn on one device, all at once."""
  return np.concatenate(run.draw(run.requests()))


def picture(seed: int, size=(16, 16)) -> np.ndarray:
  return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def near(left, right) -> bool:
  """Equal up to rounding to 8 bits at the last step."""
  return np.abs(np.asarray(left, int) - np.asarray(right, int)).max() <= 1


def test_shape_and_dtype(images):
  assert images.shape == (4, 16, 16, 3) and images.dtype == np.uint8
  assert images.std() > 10


def test_same_images_on_eight_devices_and_in_twos(run, images):
  assert jax.device_count() == 8
  assert near(np.concatenate(run.draw(run.requests(), mesh=None)), images)
  config, calls = copy.deepcopy(run.config), []
  config.sampling.rows = 2
  drawn = run.draw(run.requests(), config=config,
                   progress=lambda *counts: calls.append(counts))
  assert near(np.concatenate(drawn), images)
  assert calls == [(2, 4), (4, 4)]


def test_rules_of_the_run_say_where_parameters_lie(run, images):
  config, places = copy.deepcopy(run.config), set()
  config.mesh.rules = (('embed', (), True), ('mlp', ('fsdp',), True))

  def look(done, total):
    """At the kernels ``up`` of the language model, while all of it lies on the devices."""
    places.update(leaf.sharding.spec for leaf in jax.live_arrays()
                  if leaf.shape == (2, 32, 64) and isinstance(leaf.sharding, NamedSharding))

  drawn = run.draw(run.requests(), config=config, mesh=None, progress=look)
  assert PartitionSpec(None, None, ('fsdp',)) in places
  assert near(np.concatenate(drawn), images)


def test_same_image_alone_and_in_another_order(run, images):
  requests = run.requests()
  assert near(run.draw(requests[2:3], mesh=None)[0], images[2:3])
  assert near(np.concatenate(run.draw(requests[::-1])), images[::-1])


def test_a_language_model_of_eight_bits_draws_nearly_the_same(run, images):
  config = copy.deepcopy(run.config)
  config.model.quantized = (('mllm/(?!vision).*', 'int8'),)
  drawn = np.concatenate(run.draw(run.requests(), config=config))
  error = np.abs(drawn.astype(int) - images.astype(int))
  assert 0 < error.mean() < 0.02 * 255


def test_seed_text_and_number_matter(run, images):
  assert not near(np.concatenate(run.draw(run.requests(seed=6))), images)
  assert not near(run.draw(run.requests(TEXTS[::-1]))[0][0], images[0])
  other = [dataclasses.replace(request, number=request.number + 4) for request in run.requests()]
  assert not near(np.concatenate(run.draw(other)), images)
  first, second, *_ = run.draw(run.requests(TEXTS[:1] * 4))
  assert not near(first, second)


def test_guidance(run, images):
  """Scale 1 is another program, of one forward; it is the limit of the guided one."""
  plain = np.concatenate(run.draw(run.requests(guidance=1.0)))
  assert not near(plain, images)
  assert near(plain, np.concatenate(run.draw(run.requests(guidance=1.0 + 1e-6))))


def test_requests_with_and_without_guidance_share_a_batch(run, images):
  mixed = run.requests()[:2] + run.requests(guidance=1.0)[2:]
  drawn, plain = run.draw(mixed), run.draw(run.requests(guidance=1.0))
  assert near(np.concatenate(drawn[:2]), images[:2])
  assert near(np.concatenate(drawn[2:]), np.concatenate(plain[2:]))


def test_unipc_is_chosen_by_the_config(run, images):
  config = copy.deepcopy(run.config)
  config.sampling.solver = 'unipc'
  drawn = np.concatenate(run.draw(run.requests(), config=config))
  assert not near(drawn, images) and np.abs(drawn - images.astype(float)).mean() < 0.2 * 255


def test_non_finite_latents_are_refused(run):
  broken = jax.tree.map(lambda leaf: leaf * np.float32('nan'), run.params)
  with pytest.raises(UserError, match='a white triangle.*not finite'):
    run.draw(run.requests(), params=broken)


def test_whatever_is_wrong_with_a_request_is_said_before_any_is_drawn(run, tmp_path):
  calls = []
  (tmp_path / 'torn.png').write_bytes(b'\x89PNG torn')
  for wrong, message in (
      (run.requests(['circle ' * 200]), 'prompt_tokens = 96'),
      (run.requests(['a cross'], size=(16, 18)), r"prompt 'a cross': size = \(16, 18\).*multiples "
       'of 4, .* as 16x20'),
      (run.requests(['a cross'], source=[(tmp_path / 'torn.png').read_bytes()]),
       "prompt 'a cross': an image cannot be read: no image of a format that is read")):
    with pytest.raises(UserError, match=message):
      run.draw(run.requests() + wrong, progress=lambda *counts: calls.append(counts))
  assert not calls


@pytest.fixture(scope='module')
def conditioned(run):
  """The same system where the denoiser gets sources and references as clean latents, and six
  requests that differ in sizes, counts and images."""
  config = copy.deepcopy(run.config)
  config.data.clean_roles = ('source', 'reference')
  runner, request = Runner(config, run.system), make_request
  small, wide = dict(size=(8, 16), seed=1), dict(size=(16, 24), seed=2)
  return runner, [
      request(config, 'a red circle', number=0),
      request(config, 'a cross', number=1, **small),
      request(config, 'three pictures of a cross', number=2, outputs=3, **wide),
      request(config, 'make it blue', number=3, source=[picture(1)]),
      request(config, 'a square in the colour of both', number=4,
              reference=[picture(2), picture(3, (30, 20))]),
      request(config, 'turn it', number=5, source=[picture(4, (8, 16))], outputs=3, **small)]


def latents_of(runner, requests):
  """Latent tokens f32[h w, C] of every output of the requests, drawn in one batch."""
  batch = make_batch(requests, runner.system, runner.maker, 8, 1)
  with partition.scope(runner.mesh):
    latents = solve(runner.system, runner.params, batch, linear_sigmas(3), 'euler',
                    runner.mesh, ())
  result = [[] for _ in requests]
  for drawn in batch.drawn:
    size = drawn.grid[0] * drawn.grid[1]
    result[drawn.request].append(latents[drawn.row, drawn.start:drawn.start + size])
  return result


def test_mixed_sizes_counts_and_references_equal_single_requests(conditioned):
  runner, requests = conditioned
  batch = make_batch(requests, runner.system, runner.maker, 8, 1)
  assert batch.branches.batch.meta.sample_ids.shape[1] > 1  # small ones share a row
  assert len({row for _, row, _, _ in batch.drawn}) < len(requests)
  together = latents_of(runner, requests)
  for request, outputs in zip(requests, together):
    alone, = latents_of(runner, [request])
    assert len(alone) == len(outputs) == len(request.sample.targets)
    for left, right in zip(outputs, alone, strict=True):
      np.testing.assert_allclose(left, right, atol=1e-4)
      assert np.abs(left).std() > 0.1


def test_outputs_have_the_size_asked_for_and_differ(conditioned):
  runner, requests = conditioned
  drawn = runner.draw(requests)
  assert [outputs.shape[:3] for outputs in drawn] == [
      (1, 16, 16), (1, 8, 16), (3, 16, 24), (1, 16, 16), (1, 16, 16), (3, 8, 16)]
  for outputs in (drawn[2], drawn[5]):
    assert not near(outputs[0], outputs[1]) and not near(outputs[1], outputs[2])


def test_given_images_are_clean_latents_in_their_places(conditioned):
  runner, requests = conditioned
  batch = make_batch(requests[4:5], runner.system, runner.maker, 8, 1)
  (pixels, slots), = batch.given.values()
  visual = batch.branches.batch.visual
  np.testing.assert_array_equal(pixels[0], picture(2))
  np.testing.assert_array_equal(slots, [0, 16])  # of the first branch; the empty prompt has none
  np.testing.assert_array_equal(visual.is_clean.sum(1), [32, 0])
  np.testing.assert_array_equal(visual.is_target.sum(1), [16, 16])
  np.testing.assert_array_equal(batch.branches.token_of[0, :, :16],
                                [np.arange(32, 48), np.arange(16)])


def test_a_source_of_plain_iomm_stands_in_the_prompt_alone(run):
  """Zero-shot editing (L103): the denoiser is told of the source by the language model only."""
  edit = run.requests(['make it red'], source=[picture(1)])
  batch = make_batch(edit, run.system, run.maker, 8, 1)
  prompt, visual = batch.branches.batch.prompt, batch.branches.batch.visual
  assert (prompt.patch_images > 0).any(1).tolist() == [True, False]  # the second is empty
  assert (prompt.image_index >= 0).any(1).tolist() == [True, False]
  assert not batch.given and not visual.is_clean.any()


def test_grid():
  images = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
  grid = image_grid(images, columns=2)
  gap = [255, 255]  # GAP
  assert grid.shape == (6, 6, 3)
  np.testing.assert_array_equal(grid[..., 0], [
      [0, 0, *gap, 1, 1], [0, 0, *gap, 1, 1], [255] * 6, [255] * 6, [2, 2, *gap, *gap],
      [2, 2, *gap, *gap]])
  # Images of several sizes stand at the top left of tiles of the largest.
  mixed = image_grid([images[1], np.zeros((1, 3, 3), np.uint8)], columns=2)
  np.testing.assert_array_equal(mixed[..., 0], [[1, 1, 255, *gap, 0, 0, 0],
                                                [1, 1, 255, *gap, 255, 255, 255]])
