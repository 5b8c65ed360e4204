"""Position schemes are plain tables, and equal the published models that they are named after."""

import itertools

import diffusers
import numpy as np
import pytest
import torch
from diffusers.models.transformers.transformer_qwenimage import QwenEmbedRope

from jaxgen.core.errors import UserError
from jaxgen.data import positions
from jaxgen.data.positions import Grid
from jaxgen.data.positions import order
from jaxgen.data.positions import place


def _grids(roles, size=(2, 3)):
  return [Grid(role, *size) for role in roles]


def _times(scheme, inputs, outputs):
  """t of each image, which must be one number per image with native (h, w)."""
  grids = _grids(['reference'] * inputs + ['target'] * outputs)
  placed = place(scheme, grids, 4)
  assert placed.states.shape == (4, 3) and not placed.states.any()
  times = []
  for table in placed.images:
    np.testing.assert_array_equal(table[:, 1:], positions.grid_positions(2, 3))
    assert len(set(table[:, 0].tolist())) == 1
    times.append(int(table[0, 0]))
  return times[:inputs], times[inputs:]


def test_image_table():
  table = positions.image_positions(2, 3)
  np.testing.assert_array_equal(
      table, [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 0], [0, 1, 1], [0, 1, 2]])
  assert table.dtype == np.int32


def test_grid_and_text():
  np.testing.assert_array_equal(positions.grid_positions(2, 2), [[0, 0], [0, 1], [1, 0], [1, 1]])
  np.testing.assert_array_equal(positions.text_positions(3), [[0] * 3, [1] * 3, [2] * 3])


def test_shared_tables_cannot_be_changed():
  assert not positions.image_positions(2, 3).flags.writeable
  assert not positions.grid_positions(2, 3).flags.writeable


@pytest.mark.parametrize('scheme', positions.SCHEMES)
def test_every_scheme_gives_one_int32_row_per_token(scheme):
  roles = ('source', 'reference', 'target', 'context', 'reference')
  sizes = ((4, 6), (3, 5), (4, 6), (1, 7), (6, 4))
  indices = order(scheme, roles)
  grids = [Grid(roles[index], *sizes[index]) for index in indices]
  placed = place(scheme, grids, 5)
  assert [table.shape for table in placed.images] == [(g.height * g.width, 3) for g in grids]
  assert placed.states.shape == (5, 3)
  assert all(table.dtype == np.int32 for table in (*placed.images, placed.states))
  # Tokens of different images never share a position, but where the mirrored source meets the
  # target at the origin (A13).
  every = [tuple(row) for table in placed.images for row in table.tolist()]
  shared = {row for row in every if every.count(row) > 1}
  assert shared == ({(0, 0, 0)} if scheme in ('shifted', 'shifted_product') else set())
  again = place(scheme, grids, 5)
  for first, second in zip(placed.images, again.images, strict=True):
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize('scheme', positions.SCHEMES)
def test_text_alone(scheme):
  placed = place(scheme, (), 3)
  assert placed.images == () and placed.states.shape == (3, 3)


def test_sequence_order():
  roles = ('reference', 'target', 'source', 'reference')
  assert order('shifted', roles) == (2, 1, 0, 3)
  assert order('shifted_product', roles) == order('shifted_source_shift', roles) == (2, 1, 0, 3)
  for scheme in set(positions.SCHEMES) - set(positions.SHIFTED):
    assert order(scheme, roles) == (0, 2, 3, 1)


def test_unknown_scheme_is_named():
  for call in (lambda: place('rope', (), 0), lambda: order('rope', ())):
    with pytest.raises(UserError, match="scheme = 'rope': use one of flux, z_image"):
      call()


def test_flux_equals_the_kontext_pipeline():
  ids = diffusers.FluxKontextPipeline._prepare_latent_image_ids
  target, condition = (ids(1, *size, 'cpu', torch.int32) for size in ((4, 6), (3, 5)))
  condition[:, 0] = 1  # FluxKontextPipeline.prepare_latents
  placed = place('flux', (Grid('source', 3, 5), Grid('target', 4, 6)), 7)
  np.testing.assert_array_equal(placed.images[0], condition)
  np.testing.assert_array_equal(placed.images[1], target)
  assert not placed.states.any()


def test_flux_numbers_further_conditions_and_targets():
  assert _times('flux', 3, 1) == ([1, 2, 3], [0])
  assert _times('flux', 2, 2) == ([2, 3], [0, 1])


def test_z_image_equals_diffusers():
  model = diffusers.ZImageTransformer2DModel(
      in_channels=2, dim=24, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2,
      cap_feat_dim=4, axes_dims=[4, 4, 4], axes_lens=[64, 64, 64])
  # 32 states and 32 tokens: Z-Image pads neither.
  _, _, _, images, texts, _, _ = model.patchify_and_embed(
      [torch.zeros(2, 1, 8, 16)], [torch.zeros(32, 4)], 2, 1)
  placed = place('z_image', [Grid('target', 4, 8)], 32)
  np.testing.assert_array_equal(placed.images[0], images[0])
  np.testing.assert_array_equal(placed.states, texts[0])


@pytest.mark.parametrize('sizes', [((4, 6),), ((5, 3), (7, 2)), ((4, 4), (9, 5), (6, 12))])
def test_qwen_image_equals_diffusers(sizes):
  axes, theta = (4, 6, 6), 10000
  rope = QwenEmbedRope(theta, list(axes), scale_rope=True)
  image, text = rope([[(1, *size) for size in sizes]], 'cpu', 5)  # the target first
  grids = [*(Grid('reference', *size) for size in sizes[1:]), Grid('target', *sizes[0])]
  placed = place('qwen_image', grids, 5)

  def rotations(table):
    angles = [table[:, axis:axis + 1] * theta**(-np.arange(0, dim, 2) / dim)
              for axis, dim in enumerate(axes)]
    return np.exp(1j * np.concatenate(angles, axis=1))
  ours = np.concatenate([placed.images[-1], *placed.images[:-1]])
  np.testing.assert_allclose(rotations(ours), image.numpy(), atol=1e-5)
  np.testing.assert_allclose(rotations(placed.states), text.numpy(), atol=1e-5)


def test_qwen_image_table():
  placed = place('qwen_image', [Grid('reference', 1, 2), Grid('target', 3, 2)], 2)
  np.testing.assert_array_equal(placed.images[0], [[1, -1, -1], [1, -1, 0]])
  np.testing.assert_array_equal(
      placed.images[1],
      [[0, -2, -1], [0, -2, 0], [0, -1, -1], [0, -1, 0], [0, 0, -1], [0, 0, 0]])
  np.testing.assert_array_equal(placed.states, [[1, 1, 1], [2, 2, 2]])


@pytest.mark.parametrize('scheme, inputs, outputs, expected', [
    ('marginal', 1, 1, ([0], [24])),
    ('marginal', 3, 2, ([0, 2, 4], [24, 26])),
    ('marginal', 4, 4, ([0, 2, 4, 7], [24, 26, 28, 31])),
    ('marginal', 5, 2, ([0, 1, 2, 3, 4], [24, 26])),
    ('marginal', 0, 8, ([], list(range(24, 32)))),
    ('marginal_consecutive', 3, 2, ([0, 1, 2], [24, 25])),
    ('marginal_paper', 1, 1, ([0], [24])),
    ('marginal_paper', 2, 3, ([0, 7], [24, 27, 31])),
    ('marginal_paper', 4, 4, ([0, 2, 4, 7], [24, 26, 28, 31])),
    ('marginal_paper', 8, 8, (list(range(8)), list(range(24, 32)))),
    ('even', 0, 1, ([], [0])),
    ('even', 1, 1, ([0], [31])),
    ('even', 2, 2, ([0, 10], [20, 31])),
    ('per_image', 2, 2, ([0, 1], [2, 3])),
])
def test_times(scheme, inputs, outputs, expected):
  assert _times(scheme, inputs, outputs) == expected


@pytest.mark.parametrize('scheme', ['marginal', 'marginal_consecutive', 'marginal_paper'])
def test_marginal_has_eight_inputs_and_eight_outputs(scheme):
  assert len(set(sum(_times(scheme, 8, 8), []))) == 16
  with pytest.raises(UserError, match=f'input images = 9: the scheme {scheme} has 8'):
    _times(scheme, 9, 1)
  with pytest.raises(UserError, match=f'output images = 9: the scheme {scheme} has 8'):
    _times(scheme, 1, 9)


def test_even_has_32_places():
  assert sum(_times('even', 16, 16), []) == list(range(32))
  with pytest.raises(UserError, match='images = 33: the scheme even has 32'):
    _times('even', 20, 13)


def test_omnigen2_shifts_by_the_longer_side():
  placed = place('omnigen2', [Grid('reference', 2, 5), Grid('reference', 4, 3),
                              Grid('target', 2, 2)], 3)
  np.testing.assert_array_equal(placed.states, [[0] * 3, [1] * 3, [2] * 3])
  assert [table[0].tolist() for table in placed.images] == [[3, 0, 0], [8, 0, 0], [12, 0, 0]]
  np.testing.assert_array_equal(placed.images[2], [[12, 0, 0], [12, 0, 1], [12, 1, 0], [12, 1, 1]])


def test_shifted_table():
  grids = [Grid('source', 2, 2), Grid('target', 2, 3), Grid('reference', 1, 2),
           Grid('reference', 2, 1)]
  source, target, first, second = place('shifted', grids, 2).images
  np.testing.assert_array_equal(source, [[0, 0, 0], [0, 0, -1], [0, -1, 0], [0, -1, -1]])
  np.testing.assert_array_equal(target, positions.image_positions(2, 3))
  np.testing.assert_array_equal(first, [[0, 2, 3], [0, 2, 4]])  # behind the target
  np.testing.assert_array_equal(second, [[0, 3, 5], [0, 4, 5]])  # and behind the first
  np.testing.assert_array_equal(
      place('shifted_product', grids, 2).images[3], [[0, 4, 6], [0, 5, 6]])  # 2 (h, w)
  np.testing.assert_array_equal(
      place('shifted_source_shift', grids, 2).images[0],
      [[0, -2, -2], [0, -2, -1], [0, -1, -2], [0, -1, -1]])


def test_shifted_equals_the_printed_equations():
  height, width = 3, 4
  grids = _grids(('source', 'target', 'reference', 'reference'), (height, width))
  placed = place('shifted', grids, 0).images

  def printed(n):  # equation 1, with i along the width and j along the height
    return {(i + width * n, j + height * n)
            for i, j in itertools.product(range(width), range(height))}

  def as_printed(table):
    return {(int(w), int(h)) for _, h, w in table}
  assert as_printed(placed[1]) == printed(0)
  assert as_printed(placed[2]) == printed(1) and as_printed(placed[3]) == printed(2)
  assert as_printed(placed[0]) == {(-i, -j) for i, j in printed(0)}


def test_running_sum_equals_the_product_when_all_sizes_are_equal():
  same = _grids(('target', *['reference'] * 3), (5, 3))
  different = [Grid('target', 5, 3), Grid('reference', 2, 2), Grid('reference', 5, 3)]
  for grids, equal in ((same, True), (different, False)):
    pairs = zip(place('shifted', grids, 1).images, place('shifted_product', grids, 1).images)
    assert all((first == second).all() for first, second in pairs) == equal


@pytest.mark.parametrize('roles', [
    ('target', 'target'), ('source',), ('source', 'source', 'target')])
def test_shifted_refuses_images_that_would_share_positions(roles):
  with pytest.raises(UserError, match='at most one source and exactly one target'):
    place('shifted', _grids(roles), 1)
