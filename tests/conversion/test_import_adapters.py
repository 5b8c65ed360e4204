"""Exported adapters are imported again, onto the model that they belong to."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from jaxgen import cli
from jaxgen.conversion import save_pretrained
from jaxgen.core import trees
from jaxgen.checkpoints.weights import load_weights
from jaxgen.checkpoints.weights import save_weights
from jaxgen.models import registry
from jaxgen.models.layers import lora

SECTION = registry.section('mmdit', in_channels=8, cond_dim=16, width=24, heads=2,
                           double_blocks=2, single_blocks=2, axes_dims=(4, 4, 4))
OTHER = registry.section('kl', channels=2, block_channels=(8, 8), layers_per_block=1,
                         norm_groups=4)
GROUPS = (lora.LoRA('.*attention/(q|k|v)', 3, 6.0), lora.LoRA('single_blocks/out', 2, 5.0))


def random(section):
  """``(module, parameters)``."""
  module, rng = registry.build(section, jnp.float32), np.random.default_rng(0)
  return module, trees.map_named(
      lambda _, leaf: rng.normal(size=leaf.shape).astype(np.float32),
      registry.param_shapes(module))


@functools.cache
def adapted():
  """Parameters with adapters as ``config.model.lora`` attaches them, changed as if trained."""
  module, base = random(SECTION)
  rng = np.random.default_rng(1)
  fresh = jax.eval_shape(lambda key: lora.attach(registry.init(module, key)['params'], key, GROUPS),
                         jax.random.key(0))
  adapters = lora.split(trees.map_named(lambda _, leaf: leaf.value, fresh))[1]

  def number(path, leaf):
    if path.endswith('alpha'):
      return np.full(leaf.shape, 6.0 if 'attention' in path else 5.0, np.float32)
    return rng.normal(size=leaf.shape).astype(np.float32)

  return trees.merge(base, trees.map_named(number, adapters))


@pytest.fixture(scope='module')
def places(tmp_path_factory):
  """Folders: ``run`` with adapters, ``base`` and ``other`` in the layout of their libraries."""
  root = tmp_path_factory.mktemp('places')
  for name, section in (('base', SECTION), ('other', OTHER)):
    save_pretrained(*random(section), str(root / name))
  config = {'model': {'denoiser': SECTION}, 'init_from': {'denoiser': str(root / 'base')},
            'trainable': [[lora.TRAINABLE, True], ['.*', False]]}
  save_weights(str(root / 'run'), {'denoiser': adapted()}, json.dumps(config))
  return root


def convert(*words):
  return cli.main(['convert', *map(str, words)])


@pytest.mark.parametrize('style', ['peft', 'diffusers', 'comfyui'])
def test_what_went_out_comes_in(places, tmp_path, capfd, style):
  """A PEFT folder names its base; for a single file ``--base`` is needed."""
  out, weights, again = tmp_path / 'out', tmp_path / 'weights', tmp_path / 'again'
  assert convert('export', f'--workdir={places / "run"}', f'--out={out}', f'--lora={style}') == 0
  name = 'denoiser_lora' if style == 'peft' else 'denoiser_lora.safetensors'
  words = ['import', f'--path={out / name}', f'--out={weights}']
  if style != 'peft':
    assert convert(*words) == 1
    assert 'does not say of which model; give --base' in capfd.readouterr().err
    assert not weights.exists()
    words.append(f'--base={places / "base"}')
  assert convert(*words) == 0
  said = capfd.readouterr()
  # Queries, keys and values of a block are one module of ComfyUI.
  count, linear = (8, 32) if style == 'comfyui' else (20, 46)
  assert f'adapters of {count} of the {linear} linear modules of {places}/base' in said.err
  assert 'MB read in' in said.err and 'peak host memory' in said.err
  assert f'{weights}: denoiser, family mmdit' in said.out
  held, ours = load_weights(str(weights), ['denoiser'])[0]['denoiser'], adapted()
  if style == 'comfyui':
    held, ours = lora.merge(held), lora.merge(ours)
  held, ours = trees.flatten(held), trees.flatten(ours)
  assert held.keys() == ours.keys()
  for path, leaf in ours.items():
    np.testing.assert_allclose(held[path], leaf, atol=1e-5 * (style == 'comfyui'), err_msg=path)

  assert convert('export', f'--workdir={weights}', f'--out={again}', f'--lora={style}') == 0
  if style != 'comfyui':
    file = f'{name}/adapter_model.safetensors' if style == 'peft' else name
    assert (again / file).read_bytes() == (out / file).read_bytes()


def test_names_of_other_programs_fit_the_same_modules(places, tmp_path, capfd):
  """Flat names and other suffixes; for another model they are listed."""
  words = ['import', f'--path={tmp_path / "x.safetensors"}', f'--base={places / "base"}']
  assert convert('export', f'--workdir={places / "run"}', f'--out={tmp_path}',
                 '--lora=comfyui') == 0
  tensors = safetensors.numpy.load_file(tmp_path / 'denoiser_lora.safetensors')
  other = {}
  for name, leaf in tensors.items():
    module = re.sub(r'\.(lora_(down|up)\.weight|alpha)$', '', name)
    flat = 'lora_unet_' + module.removeprefix('diffusion_model.').replace('.', '_')
    other[name.replace(module, flat).replace('lora_down', 'lora_A').replace('lora_up', 'lora_B')
          ] = leaf
  safetensors.numpy.save_file(other, tmp_path / 'x.safetensors')
  assert convert(*words, f'--out={tmp_path / "weights"}') == 0
  assert 'adapters of 8 of the 32 linear modules' in capfd.readouterr().err
  held = load_weights(str(tmp_path / 'weights'), ['denoiser'])[0]['denoiser']
  ours = trees.flatten(lora.merge(adapted()))
  for path, leaf in trees.flatten(lora.merge(held)).items():
    np.testing.assert_allclose(leaf, ours[path], atol=1e-5, err_msg=path)
  words[-1] = f'--base={places / "other"}'
  assert convert(*words, f'--out={tmp_path / "none"}') == 1
  assert ('8 adapters of modules that the model lacks: lora_unet_double_blocks_0_img_attn_qkv'
          in capfd.readouterr().err)


def test_the_base_may_be_a_run(places, tmp_path):
  out = tmp_path / 'out'
  assert convert('export', f'--workdir={places / "run"}', f'--out={out}', '--lora=peft') == 0
  save_weights(str(tmp_path / 'plain'),
               {'denoiser': random(SECTION)[1], 'autoencoder': random(OTHER)[1]},
               json.dumps({'model': {'autoencoder': OTHER, 'denoiser': SECTION}}))
  assert convert('import', f'--path={out / "denoiser_lora"}', f'--out={tmp_path / "weights"}',
                 f'--base={tmp_path / "plain"}') == 0
  held = trees.flatten(load_weights(str(tmp_path / 'weights'), ['denoiser'])[0]['denoiser'])
  for path, leaf in trees.flatten(adapted()).items():
    np.testing.assert_array_equal(held[path], leaf, err_msg=path)


def test_what_does_not_fit_is_listed(places, tmp_path, capfd):
  out = tmp_path / 'out'
  assert convert('export', f'--workdir={places / "run"}', f'--out={out}', '--lora=peft') == 0
  words = ['import', f'--path={out / "denoiser_lora"}', f'--out={tmp_path / "weights"}']
  assert convert(*words, f'--base={places / "other"}') == 1
  assert '20 adapters of modules that the model lacks: ' in capfd.readouterr().err
  file = out / 'denoiser_lora' / 'adapter_model.safetensors'
  file.write_bytes(file.read_bytes()[:-9])
  assert convert(*words) == 1
  assert 'damaged or cut short' in capfd.readouterr().err
  assert not (tmp_path / 'weights').exists()
