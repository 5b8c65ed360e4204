"""From models of Hugging Face to a run, to adapters on it and back, through the command line."""

import contextlib
import copy
import functools
import io
import pathlib

import diffusers
import jax
import numpy as np
import orbax.checkpoint as ocp
import peft
import pytest
import torch
import transformers

from jaxgen import cli
from jaxgen.config import from_json
from jaxgen.config import lora
from jaxgen.config import to_json
from jaxgen.conversion import families
from jaxgen.conversion import load_pretrained
from jaxgen.conversion.lora import from_theirs
from jaxgen.conversion.lora import linear_modules
from jaxgen.conversion.lora_files import find
from jaxgen.core import trees
from jaxgen.checkpoints.weights import read_config
from jaxgen.data.loader import make_loader
from jaxgen.models import registry
from jaxgen.models.layers import lora as low_rank
from jaxgen.objectives.registry import make_objectives
from jaxgen.sampling.load import load_run
from jaxgen.sharding import partition
from jaxgen.sharding.mesh import make_mesh
from jaxgen.training.latents import global_batch
from jaxgen.training.latents import make_encoder
from tests.models.rows import denoiser_inputs
from tests.training.launched import CONFIG_FILE
from tests.training.launched import metrics_of
from tests.training.launched import steps_in

SECTIONS = {
    'mllm': registry.section(
        'internvl', image_token_id=5,
        vision=dict(image_size=8, patch_size=4, width=16, layers=2, heads=2, mlp=32),
        text=dict(vocab=512, width=32, layers=2, heads=4, kv_heads=2, mlp=64)),
    'denoiser': registry.section(
        'mmdit', in_channels=16, cond_dim=32, width=32, heads=2, double_blocks=2,
        single_blocks=2, axes_dims=(4, 6, 6), pooled_dim=6),
    'autoencoder': registry.section('kl', channels=4, block_channels=(8, 8), layers_per_block=1,
                                    norm_groups=4),
}
RULES = families.TABLES['mmdit']
GROUPS = {'attention': lora('denoiser/.*attention/(q|k|v)', rank=3, alpha=6.0),
          'out': lora('denoiser/single_blocks/(out|mlp_up)', rank=2, alpha=5.0)}


def jaxgen(*words):
  assert cli.main([str(word) for word in words]) == 0


def train(config, workdir, *overrides):
  file = workdir.parent / f'{workdir.name}.py'
  file.write_text(CONFIG_FILE.format(text=to_json(config)))
  jaxgen('train', f'--config={file}', f'--workdir={workdir}', *overrides)


@pytest.fixture(scope='module')
def stock(tmp_path_factory) -> pathlib.Path:
  """Random models, as their libraries write them."""
  root = tmp_path_factory.mktemp('stock')
  torch.manual_seed(0)
  configs = {group: families.TABLES[section['family']].write_config(section)
             for group, section in SECTIONS.items()}
  for group, model in {
      'mllm': transformers.InternVLForConditionalGeneration(
          transformers.AutoConfig.for_model(**configs['mllm'])),
      'denoiser': diffusers.FluxTransformer2DModel.from_config(configs['denoiser']),
      'autoencoder': diffusers.AutoencoderKL.from_config(configs['autoencoder']),
  }.items():
    with torch.no_grad():
      for parameter in model.parameters():  # no layer at zero, which would hide the others
        parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(str(root / group))
  return root


@pytest.fixture(scope='module')
def dense(stock, tiny_base, tmp_path_factory):
  """``(config, workdir)`` of two steps that start from the stock models, and a third later on."""
  config = copy.deepcopy(tiny_base)
  for group, section in SECTIONS.items():
    config.model[group] = section
  config.init_from.update({group: str(stock / group) for group in SECTIONS})
  config.train.update(steps=2, checkpoint_every=2)
  workdir = tmp_path_factory.mktemp('runs') / 'dense'
  train(config, workdir)
  train(config, workdir, '--config.train.steps=3')
  return config, workdir


@pytest.fixture(scope='module')
def adapted(dense, tmp_path_factory):
  """Workdir of adapters on the dense run, likewise trained in two goes; beside it what was said."""
  config = copy.deepcopy(dense[0])
  for name, group in GROUPS.items():
    config.model.lora[name] = group
  config.trainable = ((low_rank.TRAINABLE, True), ('.*', False))
  config.init_from.update({group: str(dense[1]) for group in (*SECTIONS, 'bridge')},
                          changes=(('.*/lora/.*', 'reinit'),))
  config.optimizer.learning_rate = 0.1
  workdir = tmp_path_factory.mktemp('runs') / 'adapted'
  with contextlib.redirect_stderr(io.StringIO()) as said:
    train(config, workdir)
  (workdir.parent / 'said').write_text(said.getvalue())
  train(config, workdir, '--config.train.steps=3')
  return workdir


@pytest.fixture(scope='module')
def base(dense, tmp_path_factory):
  """Export of the dense run."""
  out = tmp_path_factory.mktemp('base')
  jaxgen('convert', 'export', f'--workdir={dense[1]}', f'--out={out}')
  return out


def their_velocity(model):
  rng = np.random.default_rng(0)
  latents, states = (rng.normal(size=shape) for shape in ((1, 6, 16), (1, 5, 32)))
  places = np.stack([np.zeros(6), *np.indices((2, 3)).reshape(2, -1)], axis=-1)
  with torch.no_grad():
    return model(
        hidden_states=torch.tensor(latents).float(),
        encoder_hidden_states=torch.tensor(states).float(), pooled_projections=torch.zeros(1, 6),
        timestep=torch.tensor([0.3]), txt_ids=torch.zeros(5, 3),
        img_ids=torch.tensor(places).float()).sample.numpy()


def our_velocity(workdir):
  """Of the model that ``jaxgen sample`` draws from."""
  run, rng = load_run(str(workdir)), np.random.default_rng(0)
  latents, states = (rng.normal(size=shape) for shape in ((1, 6, 16), (1, 5, 32)))
  places = np.stack([np.zeros(6), *np.indices((2, 3)).reshape(2, -1)], axis=-1)
  inputs = denoiser_inputs(
      latents.astype(np.float32), np.float32([[0.3]]), places[None].astype(np.int32),
      np.ones((1, 6), np.int32), states.astype(np.float32), np.zeros((1, 5, 3), np.int32),
      np.ones((1, 5), np.int32), pooled=np.zeros((1, 1, 6), np.float32))
  return np.asarray(jax.jit(run.system.models['denoiser'].apply)(
      {'params': run.params['denoiser']}, *inputs))


def diffusers_model(folder):
  return diffusers.FluxTransformer2DModel.from_pretrained(str(folder)).eval()


def difference(first, second):
  return np.abs(first - second).max()


def test_a_run_from_stock_models_comes_back_as_such(stock, dense, base):
  config, workdir = dense
  assert steps_in(workdir) == [2, 3]
  assert [line['step'] for line in metrics_of(workdir, 'step')] == [1, 2, 3]
  ours = our_velocity(workdir)
  assert difference(ours, their_velocity(diffusers_model(base / 'denoiser'))) < 1e-4
  assert difference(ours, their_velocity(diffusers_model(stock / 'denoiser'))) > 1e-3
  run = load_run(str(workdir))
  for group in SECTIONS:
    held = trees.flatten(load_pretrained(str(base / group))[1])
    for path, leaf in trees.flatten(run.params[group]).items():
      np.testing.assert_array_equal(held[path], leaf, err_msg=path)
  for group in ('mllm', 'autoencoder'):  # frozen: what went in comes out
    first, last = (trees.flatten(load_pretrained(str(root / group))[1]) for root in (stock, base))
    assert all(np.array_equal(leaf, last[path]) for path, leaf in first.items())


def test_adapters_alone_train_and_are_saved(adapted, dense):
  step = adapted / 'checkpoints' / '3'
  handler = ocp.PyTreeCheckpointHandler()
  for item in ('params', 'ema'):
    paths = trees.flatten(handler.metadata(step / item).tree)
    assert len(paths) == 22 and all(path.endswith(('lora/a', 'lora/b')) for path in paths), paths
  assert steps_in(adapted) == [2, 3]
  ours, before = (trees.flatten(load_run(str(each)).params) for each in (adapted, dense[1]))
  for path, leaf in ours.items():
    if not low_rank.is_adapter(path):
      np.testing.assert_array_equal(leaf, before[path], err_msg=path)
    elif path.endswith('/b'):
      assert np.any(leaf), path
  assert difference(our_velocity(adapted), our_velocity(dense[1])) > 0.05


def test_adapters_that_begin_are_reported(adapted, dense, tmp_path, capfd):
  """Those that the config names are reinitialised; without that they are missing."""
  first, count = 'denoiser/double_blocks/image_attention/k/lora/a', 3 * (9 + 2)
  old = len(trees.flatten(load_run(str(dense[1])).params['denoiser']))
  said = (adapted.parent / 'said').read_text()
  assert f'denoiser: {old} loaded; {count} reinitialised: {first}' in said
  assert f'| from {dense[1]} (ema) ' in said
  config = from_json(read_config(str(adapted)))
  config.init_from.changes = ()
  file = tmp_path / 'config.py'
  file.write_text(CONFIG_FILE.format(text=to_json(config)))
  assert cli.main(['train', f'--config={file}', f'--workdir={tmp_path / "run"}']) == 1
  assert f'{count} missing: {first}' in capfd.readouterr().err


def test_training_begins_with_the_loss_of_the_sampled_model(adapted, dense):
  """Fresh adapters change nothing, so the first step sees the model that was drawn from (F57)."""
  config, run = from_json(read_config(str(adapted))), load_run(str(dense[1]))
  loader = make_loader(config, run.system.layout)
  rows = partition.row_sharding(make_mesh(config.mesh), config.train.rows)
  encoder = make_encoder(config, run.system, run.params, loader, rows)
  batch = jax.device_get(global_batch(next(loader), encoder, rows, config.train.rows))
  loader.close()
  rng = jax.random.split(jax.random.PRNGKey(config.seed))[0]
  rng = jax.random.fold_in(jax.random.wrap_key_data(rng), 0)
  loss = 0.0
  for index, (objective, weight) in enumerate(make_objectives(config).values()):
    total, _ = jax.jit(functools.partial(objective, run.system))(
        run.params, batch, jax.random.fold_in(rng, index))
    loss += weight * float(total / objective.weight(batch))
  np.testing.assert_allclose(metrics_of(adapted, 'loss')[0]['loss'], loss, rtol=1e-4)


def test_samples_are_drawn(adapted, tmp_path):
  jaxgen('sample', f'--workdir={adapted}', '--prompt=a red circle', f'--out={tmp_path}',
         '--steps=2')
  assert len(list(tmp_path.glob('*.png'))) == 1


def test_merged_adapters_are_the_sampled_model(adapted, tmp_path):
  jaxgen('convert', 'export', f'--workdir={adapted}', f'--out={tmp_path}')
  model = diffusers_model(tmp_path / 'denoiser')
  assert difference(our_velocity(adapted), their_velocity(model)) < 1e-4


def test_peft_reads_them_on_the_exported_base(adapted, base, tmp_path, capsys):
  jaxgen('convert', 'export', f'--workdir={adapted}', f'--out={tmp_path}', '--lora=peft')
  assert f'{tmp_path}/denoiser_lora: adapters of FluxTransformer2DModel' in capsys.readouterr().out
  assert not (tmp_path / 'denoiser').exists() and (tmp_path / 'autoencoder').exists()
  model = peft.PeftModel.from_pretrained(
      diffusers_model(base / 'denoiser'), str(tmp_path / 'denoiser_lora')).eval()
  assert difference(our_velocity(adapted), their_velocity(model)) < 1e-4


def test_diffusers_reads_them_on_the_exported_base(adapted, base, tmp_path):
  jaxgen('convert', 'export', f'--workdir={adapted}', f'--out={tmp_path}', '--lora=diffusers')
  model = diffusers_model(base / 'denoiser')
  state, alphas = diffusers.FluxPipeline.lora_state_dict(
      str(tmp_path / 'denoiser_lora.safetensors'), return_alphas=True)
  diffusers.FluxPipeline.load_lora_into_transformer(state, alphas, model)
  assert difference(our_velocity(adapted), their_velocity(model)) < 1e-4


def test_the_names_of_comfyui_hold_the_same(adapted, base, tmp_path):
  jaxgen('convert', 'export', f'--workdir={adapted}', f'--out={tmp_path}', '--lora=comfyui')
  params = load_run(str(adapted)).params['denoiser']
  plain, _ = low_rank.split(params)
  rules = RULES.layout('original').rules
  held = find(str(tmp_path / 'denoiser_lora.safetensors')).of(linear_modules(rules, plain))
  assert 'double_blocks.0.img_attn.qkv' in held
  again = from_theirs(rules, plain, held)
  expected = trees.flatten(low_rank.merge(params))
  for path, leaf in trees.flatten(low_rank.merge(trees.merge(plain, again))).items():
    np.testing.assert_allclose(leaf, expected[path], atol=1e-5, err_msg=path)


def test_a_run_without_adapters_has_none_to_export(dense, tmp_path, capsys):
  words = ['convert', 'export', f'--workdir={dense[1]}', f'--out={tmp_path}', '--lora=peft']
  assert cli.main(words) == 1
  assert 'has no adapters; leave it out' in capsys.readouterr().err
  assert not list(tmp_path.iterdir())
