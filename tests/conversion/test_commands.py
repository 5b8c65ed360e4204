"""Exports of a run are read by PyTorch's classes, and imported again."""

import functools
import json
import pathlib

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import torch
import transformers

from jaxgen.conversion.commands import export
from jaxgen.conversion.commands import import_
from jaxgen.conversion.folders import load_folder
from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.checkpoints.weights import load_weights
from jaxgen.models import registry
from tests.models import parity
from tests.models.clips import channels_first
from tests.models.clips import channels_last
from tests.models.prompts import prompt_of
from tests.models.rows import denoiser_inputs

SECTIONS = {
    'denoiser': registry.section('mmdit', in_channels=8, cond_dim=16, width=24, heads=2,
                                 double_blocks=1, single_blocks=2, axes_dims=(4, 4, 4)),
    'bridge': registry.section('residual_queries', width=16, queries=3, heads=2),
    'mllm': registry.section(
        'internvl', image_token_id=3,
        vision=dict(image_size=8, patch_size=2, width=8, layers=2, heads=2, mlp=12),
        text=dict(vocab=11, width=16, layers=2, heads=4, kv_heads=2, mlp=20)),
    'autoencoder': registry.section('kl', channels=2, block_channels=(8, 8), layers_per_block=1,
                                    norm_groups=4),
}
GROUPS = sorted(SECTIONS)


@functools.cache
def shapes():
  return {group: registry.param_shapes(registry.build(section, jnp.float32))
          for group, section in SECTIONS.items()}


def random_params(seed: int):
  """Random parameters of every group, none left at an initial zero or one."""
  rng = np.random.default_rng(seed)
  return trees.map_named(
      lambda _, leaf: (0.2 * rng.normal(size=leaf.shape)).astype(np.float32), shapes())


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """A run with EMA whose denoiser and bridge train; two steps saved, a third save interrupted."""
  folder = tmp_path_factory.mktemp('run')
  (folder / 'config.json').write_text(json.dumps({'model': SECTIONS | {'mask_ratio': 0.85}}))
  parts = [{group: random_params(seed)[group] for group in ('denoiser', 'bridge')}
           for seed in range(4)]
  with ocp.CheckpointManager(folder / 'checkpoints') as manager:
    for step, (params, ema) in ((2, parts[:2]), (10, parts[2:])):
      manager.save(step, args=ocp.args.Composite(
          params=ocp.args.StandardSave(params), ema=ocp.args.StandardSave(ema)))
    manager.wait_until_finished()
  (folder / 'checkpoints' / '11.orbax-checkpoint-tmp').mkdir()
  frozen = {group: random_params(9)[group] for group in ('mllm', 'autoencoder')}
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(folder / 'frozen', frozen)
  return str(folder)


@pytest.fixture(scope='module')
def exported(workdir, tmp_path_factory):
  out = str(tmp_path_factory.mktemp('export'))
  return out, export(workdir, out)


def apply(group, params, *args):
  module = registry.build(SECTIONS[group], jnp.float32)
  return np.asarray(jax.jit(module.apply)({'params': params[group]}, *args))


def test_the_summary_names_what_was_written(exported):
  out, summary = exported
  assert {name: entry['class'] for name, entry in summary.items()} == {
      'denoiser': 'FluxTransformer2DModel', 'adapter': 'ResidualQueries', 'mllm': 'internvl',
      'autoencoder': 'AutoencoderKL'}
  count = sum(leaf.size for leaf in trees.flatten(random_params(0)['bridge']).values())
  assert summary['adapter']['parameters'] == count
  assert summary['denoiser']['path'] == f'{out}/denoiser'


def test_the_denoiser_gives_the_same_velocity_in_diffusers(exported):
  model = diffusers.FluxTransformer2DModel.from_pretrained(f'{exported[0]}/denoiser').eval()
  rng = np.random.default_rng(0)
  latents, states = (rng.normal(size=shape).astype(np.float32) for shape in ((1, 6, 8), (1, 5, 16)))
  places = np.stack([np.zeros(6), *np.indices((2, 3)).reshape(2, -1)], axis=-1)

  def velocity(model, latents, states):
    return model(
        hidden_states=latents, encoder_hidden_states=states,
        pooled_projections=torch.ones(1, model.config.pooled_projection_dim),
        timestep=torch.tensor([0.3]), txt_ids=torch.zeros(5, 3),
        img_ids=torch.tensor(places, dtype=torch.float32)).sample

  inputs = denoiser_inputs(
      latents, np.float32([[0.3]]), places[None].astype(np.int32), np.ones((1, 6), np.int32),
      states, np.zeros((1, 5, 3), np.int32), np.ones((1, 5), np.int32))
  theirs = parity.theirs(model, velocity, latents, states)
  parity.assert_near(apply('denoiser', random_params(3), *inputs), theirs)
  assert np.abs(theirs.exact).max() > 1e-4


def test_the_mllm_gives_the_same_logits_in_transformers(exported):
  model = transformers.InternVLForConditionalGeneration.from_pretrained(
      f'{exported[0]}/mllm', dtype=torch.float32).eval()
  tokens = np.array([[5, 3, 3, 3, 3, 7, 9]])
  pixels = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)
  patches = pixels.reshape(3, 4, 2, 4, 2).transpose(1, 3, 0, 2, 4).reshape(1, 16, 12)
  prompt = prompt_of(tokens, np.arange(7)[None], patches,
                     image_index=np.array([[-1, 0, 1, 2, 3, -1, -1]]))
  ours = apply('mllm', random_params(9), prompt)
  parity.assert_near(ours, parity.theirs(
      model, lambda model, *args: model(input_ids=args[0], pixel_values=args[1]).logits, tokens,
      pixels))
  assert np.abs(ours).max() > 1e-4


def test_the_autoencoder_loads_in_diffusers(exported):
  model = diffusers.AutoencoderKL.from_pretrained(f'{exported[0]}/autoencoder').eval()
  images = np.random.default_rng(0).uniform(-1, 1, (1, 8, 8, 3)).astype(np.float32)
  parity.assert_near(apply('autoencoder', random_params(9), images), parity.theirs(
      model, lambda model, images: channels_last(model(channels_first(images)).sample), images))


@pytest.mark.parametrize('weights, seed', [('ema', 3), ('params', 2)])
def test_import_of_the_export_is_the_run(workdir, tmp_path, weights, seed):
  """Exports the newest complete step, EMA or plain parameters, byte for byte."""
  export(workdir, str(tmp_path / 'torch'), weights)
  sections = import_(str(tmp_path / 'torch'), str(tmp_path / 'weights'))
  assert sections == SECTIONS
  params, config = load_weights(str(tmp_path / 'weights'), GROUPS)
  assert json.loads(config)['model'].keys() == SECTIONS.keys()
  expected = trees.flatten({group: random_params(9 if group in ('mllm', 'autoencoder') else seed)
                            [group] for group in GROUPS})
  found = trees.flatten(params)
  assert found.keys() == expected.keys()
  assert all(found[path].tobytes() == leaf.tobytes() for path, leaf in expected.items())
  again = export(str(tmp_path / 'weights'), str(tmp_path / 'again'))
  assert again.keys() == {'denoiser', 'adapter', 'mllm', 'autoencoder'}


def test_the_original_layout_goes_out_and_comes_in(workdir, tmp_path):
  with pytest.raises(UserError, match="--layout = 'older': no model of this run has it"):
    export(workdir, str(tmp_path / 'torch'), layout='older')
  export(workdir, str(tmp_path / 'torch'), layout='original')
  _, tensors = load_folder(str(tmp_path / 'torch' / 'denoiser'))
  assert 'double_blocks.0.img_attn.qkv.weight' in tensors
  assert import_(str(tmp_path / 'torch' / 'denoiser'), str(tmp_path / 'weights')) == {
      'denoiser': SECTIONS['denoiser']}
  params, _ = load_weights(str(tmp_path / 'weights'), ['denoiser'])
  jax.tree.map(np.testing.assert_array_equal, params['denoiser'], random_params(3)['denoiser'])


def copy_of(exported, name, tmp_path):
  """One model folder as ``(config, path)``, its tensors shared by links."""
  source, target = f'{exported[0]}/{name}', tmp_path / name
  target.mkdir()
  (file,) = pathlib.Path(source).glob('*.safetensors')
  (target / file.name).symlink_to(file)
  return json.loads(pathlib.Path(source, 'config.json').read_text()), target


def refused(folder, tmp_path, *texts):
  with pytest.raises(UserError) as caught:
    import_(str(folder), str(tmp_path / 'weights'))
  assert '\n' not in str(caught.value)
  for text in texts:
    assert text in str(caught.value)
  assert not (tmp_path / 'weights').exists()


def test_another_size_lists_the_tensors(exported, tmp_path):
  config, folder = copy_of(exported, 'denoiser', tmp_path)
  (folder / 'config.json').write_text(json.dumps(config | {'num_layers': 2}))
  refused(folder, tmp_path, 'missing: transformer_blocks.1.')
  (folder / 'config.json').write_text(json.dumps(config | {'in_channels': 4}))
  refused(folder, tmp_path, 'misshapen: proj_out.bias (8,) (needs (4,))')


def test_another_family_is_refused(exported, tmp_path):
  config, folder = copy_of(exported, 'denoiser', tmp_path)
  (folder / 'config.json').write_text(json.dumps({'_class_name': 'UNet2DConditionModel'}))
  refused(folder, tmp_path, "'UNet2DConditionModel': not a model that jaxgen can read",
          'FluxTransformer2DModel')
  other, _ = copy_of(exported, 'adapter', tmp_path)
  (folder / 'config.json').write_text(json.dumps(other))
  refused(folder, tmp_path, 'missing: ', 'unknown: ')


def test_what_the_model_cannot_express_is_refused(exported, tmp_path):
  config, folder = copy_of(exported, 'mllm', tmp_path)
  config['text_config']['hidden_act'] = 'relu'
  (folder / 'config.json').write_text(json.dumps(config))
  refused(folder, tmp_path, "text_config.hidden_act = 'relu': this model supports 'silu' only")
  del config['text_config']['hidden_act'], config['text_config']['vocab_size']
  (folder / 'config.json').write_text(json.dumps(config))
  # A field that is absent is that of the class.
  refused(folder, tmp_path, 'embed_tokens.weight (11, 16) (needs (151936, 16))')


def test_places_without_models_are_named(tmp_path):
  refused(tmp_path / 'nowhere', tmp_path, 'nowhere: no such folder')
  (tmp_path / 'empty').mkdir()
  refused(tmp_path / 'empty', tmp_path, 'no config.json there')
  with pytest.raises(UserError, match='no config.json there; give a workdir'):
    export(str(tmp_path / 'empty'), str(tmp_path / 'out'))
  (tmp_path / 'empty' / 'config.json').write_text(json.dumps({'model': SECTIONS}))
  with pytest.raises(UserError, match='no checkpoint there yet'):
    export(str(tmp_path / 'empty'), str(tmp_path / 'out'))
  (tmp_path / 'empty' / 'config.json').write_text(json.dumps({'model_type': 'internvl'}))
  with pytest.raises(UserError, match='names no model'):
    export(str(tmp_path / 'empty'), str(tmp_path / 'out'))
  assert not (tmp_path / 'out').exists()
