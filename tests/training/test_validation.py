"""Validation while a run trains: fixed rows and noise, images of ``jaxgen sample``, two processes."""

import copy
import json
import os

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from jaxgen import cli
from jaxgen.checkpoints.weights import load_weights
from jaxgen.config import load_config
from jaxgen.config import source
from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.data.loader import make_loader
from jaxgen.objectives.registry import make_objectives
from jaxgen.sampling.validation import drawing
from jaxgen.sharding import partition
from jaxgen.sharding.mesh import make_mesh
from jaxgen.systems.registry import make_system
from jaxgen.training.latents import Encoder
from jaxgen.training.latents import global_batch
from jaxgen.training.latents import latent_shape
from jaxgen.training.loop import train
from jaxgen.training.validation import held_out
from tests.training.launched import finish

JOB = [dict(prompt='a photo of a red circle'), dict(prompt='a blue square', seed=3, size='16x8')]
STEPS = (2, 4)


@pytest.fixture(scope='module')
def config(tiny_base, tmp_path_factory):
  """Four steps, two validations of both kinds of weights."""
  job = tmp_path_factory.mktemp('job') / 'job.json'
  job.write_text(json.dumps(JOB))
  config = copy.deepcopy(tiny_base)
  config.train.update(steps=4, checkpoint_every=2, log_every=4)
  config.sampling.update(steps=2, rows=8)
  config.validation.update(every=2, batches=2, weights='both', requests=str(job))
  for task in ('pair', 'image'):
    config.validation.sources[task] = source('shapes', task, split='test')
  return config


@pytest.fixture(scope='module')
def workdir(config, tmp_path_factory):
  """Trained on 8 devices, all of them for rows."""
  workdir = tmp_path_factory.mktemp('runs') / 'run'
  assert train(config, str(workdir), drawing=drawing)
  return workdir


def validations(workdir):
  """Step -> its validation metrics."""
  lines = map(json.loads, (workdir / 'metrics.jsonl').read_text().splitlines())
  found = {line['step']: {name: value for name, value in line.items()
                          if name.startswith('validation/')} for line in lines}
  return {step: metrics for step, metrics in found.items() if metrics}


def pictures(folder):
  return {file.name: file.read_bytes() for file in folder.glob('*.png')}


def losses_by_hand(config, params):
  """From the objective alone, batch by batch, on one device and without micro-batches."""
  config, system = held_out(config), make_system(config)
  rows = partition.row_sharding(make_mesh(config.mesh, jax.devices()[:1]), config.train.rows)
  loader = make_loader(config, system.layout)
  encoder = Encoder(system, {}, loader.image_sizes, rows, latent_shape(config, system))
  (objective, _), = make_objectives(config).values()
  sums, ids = {}, []
  for number in range(config.validation.batches):
    loaded = next(loader)
    ids += [name for row in loaded.ids for name in row]
    batch = global_batch(loaded, encoder, rows, config.train.rows)
    key = jax.random.wrap_key_data(np.asarray([config.validation.seed, number], np.uint32))
    total, terms = jax.jit(objective, static_argnums=0)(
        system, params, batch, jax.random.fold_in(key, 0))
    for name, pair in dict(terms, loss=(total, objective.weight(batch))).items():
      sums[name] = np.add(sums.get(name, 0), pair)
  loader.close()
  return {name: total / weight for name, (total, weight) in sums.items() if weight}, ids


def test_losses_are_those_of_the_parameters_behind_the_step(workdir, config, tiny_system):
  """Of both checkpoints, of the average and of the plain weights; the rows are not trained on."""
  found = validations(workdir)
  assert sorted(found) == list(STEPS)
  for weights in ('ema', 'params'):
    params, _ = load_weights(str(workdir), tiny_system.groups, weights)
    wanted, ids = losses_by_hand(config, params)
    assert {'loss_source/pair', 'loss_source/image', 'loss_t/0.25-0.50', 'loss'} <= wanted.keys()
    prefix = f'validation/{weights}'
    assert found[4][f'{prefix}/loss'] == found[4][f'{prefix}/flow_matching/loss']
    ours = {name.removeprefix(f'{prefix}/flow_matching/'): value
            for name, value in found[4].items() if name.startswith(f'{prefix}/flow_matching/')}
    assert ours == pytest.approx(wanted, rel=1e-5)
  assert found[2].keys() == found[4].keys()
  assert found[2]['validation/params/loss'] != found[4]['validation/params/loss']
  loader = make_loader(config, tiny_system.layout)
  trained = {name for _ in range(4) for row in next(loader).ids for name in row}
  loader.close()
  assert ids and not trained & set(ids)


@pytest.mark.parametrize('weights', ['ema', 'params'])
def test_images_are_bit_for_bit_what_sample_draws_from_the_checkpoint(workdir, config, weights,
                                                                      tmp_path):
  words = ['sample', f'--workdir={workdir}', f'--job={config.validation.requests}',
           f'--out={tmp_path}', f'--weights={weights}']
  assert cli.main(words) == 0
  ours = pictures(workdir / f'samples/validation/000004_{weights}')
  assert ours == pictures(tmp_path) and len(ours) == 2
  assert ours != pictures(workdir / f'samples/validation/000002_{weights}')


def test_tensorboard_has_losses_and_images(workdir):
  [file] = workdir.glob('events.out.tfevents*')
  shown = {(event.step, value.tag) for event in EventFileLoader(str(file)).Load()
           for value in event.summary.value}
  for step in STEPS:
    for name in ('loss', 'flow_matching/loss_t/0.25-0.50', '0000_0', '0001_0'):
      assert (step, f'validation/ema/{name}') in shown


def test_two_processes_equal_one(launcher, workdir, config, tmp_path):
  """Of one device each: both draw and compute their share; the losses agree to rounding, the
  images bit for bit."""
  codes, errors = finish(launcher.start_all([config] * 2, tmp_path / 'run', devices=1))
  assert codes == [0, 0], errors
  ours, theirs = validations(tmp_path / 'run'), validations(workdir)
  assert ours.keys() == theirs.keys()
  for step in STEPS:
    assert ours[step] == pytest.approx(theirs[step], rel=1e-5)
    for weights in ('ema', 'params'):
      folder = f'samples/validation/{step:06}_{weights}'
      assert pictures(tmp_path / 'run' / folder) == pictures(workdir / folder)


def test_latents_that_are_not_finite_do_not_end_a_run(workdir, config, tiny_system, capsys):
  config = load_config(os.path.join(workdir, 'config.json'))
  draw = drawing(config, tiny_system, tiny_system.groups, workdir)
  params, _ = load_weights(str(workdir), tiny_system.groups)
  broken = trees.map_named(lambda _, leaf: np.full_like(leaf, np.nan), params)
  assert draw(9, 'ema', broken) == {}
  assert 'no validation images of step 9: ' in capsys.readouterr().err
  assert not (workdir / 'samples/validation/000009_ema').exists()


@pytest.mark.parametrize('changes, said', [
    (dict(sources={}, requests=''), 'config.validation.every = 2: there is nothing to validate'),
    (dict(requests='none.json'), "config.validation.requests = 'none.json': no such file"),
    (dict(sources=dict(a=source('folder', path='none', split='test'))),
     "config.validation.sources.a.path = 'none': no such file or folder")])
def test_mistakes_are_said_before_the_first_step(config, changes, said, tmp_path):
  config = copy.deepcopy(config)
  config.train.steps = 1
  for name, value in changes.items():
    config.validation[name] = ConfigDict(value) if name == 'sources' else value
  with pytest.raises(UserError) as error:
    train(config, str(tmp_path / 'run'), drawing=drawing)
  assert str(error.value).startswith(said)
  assert not (tmp_path / 'run/metrics.jsonl').exists()


def test_a_stage_without_the_models_draws_nothing(config, tiny_system, tmp_path):
  with pytest.raises(UserError, match='config.validation.requests = .* no autoencoder, denoiser'):
    drawing(config, tiny_system, ('bridge', 'mllm'), tmp_path)
