"""The dual-stream MMDiT against Qwen-Image's and SD3's classes, and what packing adds to it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import QwenImageTransformer2DModel
from diffusers import SD3Transformer2DModel

from jaxgen.conversion.tables import qwen_image
from jaxgen.conversion.tables import sd3
from jaxgen.core.errors import UserError
from jaxgen.models.denoisers.dual_stream import DualStream
from jaxgen.models.denoisers.dual_stream import DualStreamConfig
from tests.models import parity
from tests.models.rows import denoiser_inputs

TINY = dict(in_channels=8, out_channels=8, cond_dim=20, width=32, heads=2, layers=3,
            axes_dims=(4, 6, 6))
SD3 = dict(axes_dims=(), position_grid=7, pooled_dim=6, text_norm=False, qk_norm=False,
           text_ends=True)
SHAPES = [(1, 2, 3), (1, 4, 2), (1, 1, 4)]  # (frames, height, width): the target, then references
SIZES = [h * w for _, h, w in SHAPES]
LENGTH, TEXT = sum(SIZES), 5


def example(config, rows=2, groups=1):
  """Inputs with one segment per row: images of different sizes, placed as Qwen-Image does."""
  rng = np.random.default_rng(0)
  lengths = np.array([TEXT, 3])[np.arange(rows) % 2]
  places = [np.stack(np.indices((1, h, w)), axis=-1).reshape(-1, 3)
            + (number, h // 2 - h, w // 2 - w) for number, (_, h, w) in enumerate(SHAPES)]
  behind = max(max(h // 2, w // 2) for _, h, w in SHAPES)
  text = np.repeat(behind + np.arange(TEXT)[:, None], 3, axis=1)

  def normal(*shape):
    return rng.normal(size=shape).astype(np.float32)

  batch = dict(
      latents=normal(rows, LENGTH, config.in_channels),
      t=rng.uniform(size=(rows, groups)).astype(np.float32),
      positions=np.tile(np.concatenate(places), (rows, 1, 1)).astype(np.int32),
      segments=np.ones((rows, LENGTH), np.int32),
      states=normal(rows, TEXT, config.cond_dim),
      state_positions=np.tile(text, (rows, 1, 1)).astype(np.int32),
      state_segments=(np.arange(TEXT) < lengths[:, None]).astype(np.int32),
      clean=np.tile(np.arange(LENGTH) >= SIZES[0], (rows, 1)),
  )
  if config.pooled_dim:
    batch['pooled'] = normal(rows, groups, config.pooled_dim)
  return batch


def torch_model(config, params, kind=QwenImageTransformer2DModel, table=qwen_image):
  theirs = table.FAMILY.write_config(config.__dict__)
  return parity.load(kind.from_config(theirs), table.RULES, params)


def qwen_velocity(model, latents, states, batch):
  return model(
      hidden_states=latents, encoder_hidden_states=states,
      encoder_hidden_states_mask=torch.tensor(batch['state_segments']),
      timestep=torch.tensor(batch['t'][:, 0]), img_shapes=[SHAPES] * len(latents),
      return_dict=False)[0]


class PlacedRope(torch.nn.Module):
  """diffusers' rotation, but of given positions (L, 3) of the image tokens and of the text."""

  def __init__(self, positions, state_positions, config):
    super().__init__()
    self.places, self.config = (positions, state_positions), config

  def _rotation(self, places):
    angles = [np.outer(places[:, axis], self.config.theta ** -(np.arange(0, dim, 2) / dim))
              for axis, dim in enumerate(self.config.axes_dims)]
    angles = torch.tensor(np.concatenate(angles, axis=1), dtype=torch.float32)
    return torch.polar(torch.ones_like(angles), angles)

  def forward(self, shapes, max_txt_seq_len, device):
    return tuple(map(self._rotation, self.places))


@functools.cache
def jitted(config, dtype=jnp.float32):
  module = DualStream(config, dtype)
  return jax.jit(lambda params, batch: module.apply(params, *denoiser_inputs(**batch)))


def assert_equals_qwen_image(config, batch, params, model):
  parity.assert_same_with_gradients(
      jitted(config), params, batch, model, functools.partial(qwen_velocity, batch=batch),
      qwen_image.RULES, ('latents', 'states'))


@pytest.mark.parametrize('fields', [dict(), dict(clean_time='zero', remat='dots')])
def test_equals_qwen_image_outputs_and_gradients(fields):
  config = DualStreamConfig(**TINY, **fields)
  params = parity.random_params(DualStream(config))
  assert_equals_qwen_image(config, example(config), params, torch_model(config, params))


SHIFTS = {  # by row and column, of each image
    'references on the diagonal': [(0, 0), (2, 3), (6, 6)],
    'a source in the negative quadrant': [(0, 0), (-5, -4), (0, 9)],
}


@pytest.mark.parametrize('shifts', SHIFTS.values(), ids=SHIFTS)
def test_images_at_shifted_positions(shifts):
  config = DualStreamConfig(**TINY)
  params, batch = parity.random_params(DualStream(config)), example(config)
  places = [np.stack(np.indices((1, h, w)), axis=-1).reshape(-1, 3) + (0, *shift)
            for (_, h, w), shift in zip(SHAPES, shifts)]
  batch['positions'][:] = np.concatenate(places)
  batch['state_positions'][:] = 0
  model = torch_model(config, params)
  model.pos_embed = PlacedRope(batch['positions'][0], batch['state_positions'][0], config)
  assert_equals_qwen_image(config, batch, params, model)


@pytest.mark.parametrize('qk_norm', [False, True])
def test_equals_sd3_outputs_and_gradients(qk_norm):
  config = DualStreamConfig(**(TINY | SD3 | dict(qk_norm=qk_norm)))
  params, batch = parity.random_params(DualStream(config)), example(config)
  rows, columns = 6, 3  # of one image, cut from the middle of the table
  batch['positions'][:] = np.stack(np.indices((1, rows, columns)), axis=-1).reshape(-1, 3) + (
      0, (7 - rows) // 2, (7 - columns) // 2)
  batch['state_segments'][:] = 1

  def velocity(model, latents, states, pooled):
    image = latents.reshape(2, rows, columns, -1, 2, 2).permute(0, 3, 1, 4, 2, 5)
    out = model(
        hidden_states=image.reshape(2, -1, 2 * rows, 2 * columns), encoder_hidden_states=states,
        pooled_projections=pooled[:, 0], timestep=torch.tensor(1000 * batch['t'][:, 0]),
        return_dict=False)[0]
    out = out.reshape(2, -1, rows, 2, columns, 2).permute(0, 2, 4, 1, 3, 5)
    return out.reshape(2, LENGTH, -1)

  model = torch_model(config, params, SD3Transformer2DModel, sd3)
  parity.assert_same_with_gradients(jitted(config), params, batch, model, velocity, sd3.RULES,
                                    ('latents', 'states', 'pooled'))


def test_packed_row_equals_separate_rows():
  config = DualStreamConfig(**TINY, clean_time='zero')
  params = {'params': parity.random_params(DualStream(config))}
  whole = example(config, rows=1, groups=2)
  whole['clean'][0] = np.arange(LENGTH) % 3 == 0
  packed = dict(whole)
  packed['segments'] = np.repeat([[1, 2, 0]], (8, 8, LENGTH - 16), axis=1).astype(np.int32)
  packed['state_segments'] = np.array([[1, 1, 2, 2, 0]], np.int32)
  together = jitted(config)(params, packed)
  assert bool(jnp.isfinite(together).all())

  for group in range(2):
    alone = {name: array[:, 2 * group:2 * group + 2] if name.startswith('state')
             else array[:, 8 * group:8 * group + 8]
             for name, array in whole.items() if name != 't'}
    separate = jitted(config)(params, alone | dict(t=whole['t'][:, group:group + 1]))
    np.testing.assert_allclose(together[:, 8 * group:8 * group + 8], separate, atol=1e-5)


def test_bf16_stays_near_fp32():
  config = DualStreamConfig(**TINY, clean_time='zero')
  params = {'params': parity.random_params(DualStream(config), scale=0.1)}
  batch = example(config, rows=1, groups=2)
  exact, rounded = (jitted(config, dtype)(params, batch) for dtype in (jnp.float32, jnp.bfloat16))
  assert rounded.dtype == jnp.float32
  assert 0 < float(jnp.abs(rounded - exact).max()) < 0.1 * float(jnp.abs(exact).mean())


FAMILIES = {
    'qwen_image': (qwen_image, dict(), dict(guidance_embeds=True)),
    'sd3': (sd3, SD3, dict(dual_attention_layers=(0, 1))),
}


@pytest.mark.parametrize('name', FAMILIES)
def test_configs_come_back(name):
  table, fields, foreign = FAMILIES[name]
  for more in (dict(qk_norm=True), dict(clean_time='zero') if name == 'qwen_image' else fields):
    config = DualStreamConfig(**(TINY | fields | more))
    theirs = table.FAMILY.write_config(config.__dict__)
    section = table.FAMILY.read_config(theirs, (), 'config.json')
    assert section.pop('family') == name and DualStreamConfig(**section) == config
  with pytest.raises(UserError, match=next(iter(foreign))):
    table.FAMILY.read_config(theirs | foreign, (), 'config.json')
  with pytest.raises(UserError, match='mlp_ratio'):
    table.FAMILY.write_config(config.__dict__ | dict(mlp_ratio=2.0))


# Query-Kontext's generator and the light head of its first stage (paper, table 11 and section
# 3.3; the head follows SD3's rule of 64 channels per block). The connector gives them 2560
# channels.
GENERATOR = dict(cond_dim=2560, width=2560, heads=40, layers=42, axes_dims=(8, 28, 28))
HEAD = dict(cond_dim=2560, width=1152, heads=18, layers=18, axes_dims=(8, 28, 28), text_ends=True)


@pytest.mark.parametrize('fields, total, tolerance', [
    (dict(), 20.43e9, 0.005e9),
    (GENERATOR, 9.9e9, 0.099e9),
    (dict(GENERATOR, text_ends=True), 9.9e9, 0.099e9),
    (HEAD, 0.85e9, 0.005e9),
], ids=['Qwen-Image', 'generator', 'generator, SD3 style', 'head'])
def test_full_sizes_are_as_published(fields, total, tolerance):
  module = DualStream(DualStreamConfig(**fields))
  assert abs(parity.count(module) - total) < tolerance, parity.count(module)


@pytest.mark.parametrize('fields', [dict(), SD3])
def test_every_parameter_names_its_axes(fields):
  parity.assert_axes_named(DualStream(DualStreamConfig(**(TINY | fields))))


@pytest.mark.parametrize('wrong, field', [
    (dict(heads=3), 'heads'), (dict(axes_dims=(4, 6, 8)), 'axes_dims'), (dict(remat='x'), 'remat'),
    (dict(clean_time='now'), 'clean_time'),
])
def test_sizes_that_do_not_fit_are_named(wrong, field):
  with pytest.raises(UserError, match=f'denoiser.{field}'):
    DualStreamConfig(**(TINY | wrong))
