"""What trains, what is frozen, where runs begin and whose a workdir is."""

import copy
import json

import jax
import numpy as np
import pytest

from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.core.weights import load_weights
from jaxgen.models.registry import section
from jaxgen.objectives.registry import make_objectives
from jaxgen.objectives.registry import needed_groups
from jaxgen.sharding.mesh import make_mesh
from jaxgen.systems.registry import make_system
from jaxgen.training import workdir as workdirs
from jaxgen.training.init_from import load_groups
from jaxgen.training.state import init_state
from jaxgen.training.state import make_blueprint
from jaxgen.training.state import trainable_paths


def blueprint_of(config):
  return make_blueprint(config, make_system(config), needed_groups(make_objectives(config)),
                        make_mesh(config.mesh))


def test_rules_decide_what_trains(tiny_config, tiny_system):
  tiny_config.trainable = (('denoiser/(double|single)_blocks/.*', True), ('.*', False))
  trains = trainable_paths(tiny_config, tiny_system, tiny_system.groups)
  assert {path.split('/')[1] for path, value in trains.items() if value} == {
      'double_blocks', 'single_blocks'}
  assert set(trains) == set(trees.flatten(tiny_system.shapes()))


@pytest.mark.parametrize('rules, message', [
    ((('denoiser/.*', True),), r'no rule matches parameter .bridge'),
    ((('denoyser/.*', True), ('.*', False)), r"denoyser.*matches no parameter.*denoiser"),
    ((('.*', False),), 'nothing trains'),
])
def test_rules_that_do_not_fit_the_parameters(tiny_config, tiny_system, rules, message):
  tiny_config.trainable = rules
  with pytest.raises(UserError, match=rf'config\.trainable.*{message}'):
    trainable_paths(tiny_config, tiny_system, tiny_system.groups)


def test_an_autoencoder_cannot_train(tiny_config):
  tiny_config.model.autoencoder = section(
      'kl', channels=4, block_channels=(8, 8), layers_per_block=1, norm_groups=4)
  tiny_config.model.denoiser.in_channels = 16
  tiny_config.trainable = (('.*', True),)
  system = make_system(tiny_config)
  with pytest.raises(UserError, match='autoencoder.*cannot train'):
    trainable_paths(tiny_config, system, system.groups)


def test_frozen_parameters_have_their_own_dtype(tiny_config):
  tiny_config.model.frozen_dtype = 'bfloat16'
  blueprint = blueprint_of(tiny_config)
  assert {str(leaf.dtype) for leaf in jax.tree.leaves(blueprint.frozen)} == {'bfloat16'}
  assert {str(leaf.dtype) for leaf in jax.tree.leaves(blueprint.state.params)} == {'float32'}


def test_groups_start_from_the_ema_of_another_run(tiny_config, straight, capsys):
  tiny_config.init_from.update(mllm=str(straight), denoiser=str(straight))
  blueprint = blueprint_of(tiny_config)
  loaded = load_groups(tiny_config, blueprint)
  report = capsys.readouterr().err
  assert f'denoiser: 0.12 M trained, 0.00 M frozen, from {straight} (ema)' in report
  assert 'bridge: 0.01 M trained, 0.00 M frozen, random' in report
  state, frozen = init_state(tiny_config, make_system(tiny_config), blueprint, loaded)
  ema, _ = load_weights(str(straight), ['denoiser', 'mllm'], 'ema')
  params, _ = load_weights(str(straight), ['denoiser'], 'params')
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.params['denoiser']),
               ema['denoiser'])
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(frozen['mllm']), ema['mllm'])
  different = [np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (ema['denoiser'],
                                                                     params['denoiser'])))]
  assert any(different)


def test_weights_of_other_sizes_are_listed(tiny_config, straight):
  tiny_config.init_from.denoiser = str(straight)
  tiny_config.model.denoiser.update(width=48, axes_dims=(8, 8, 8))
  with pytest.raises(UserError, match=r'misshapen.*denoiser/.*needs') as error:
    load_groups(tiny_config, blueprint_of(tiny_config))
  assert str(straight) in str(error.value) and '\n' not in str(error.value)


def test_a_workdir_of_another_config_names_the_field(tiny_config, tmp_path):
  workdirs.claim(tiny_config, str(tmp_path))
  other = copy.deepcopy(tiny_config)
  other.optimizer.learning_rate = 3e-4
  with pytest.raises(UserError, match=r'config\.optimizer\.learning_rate = 0\.0003.*0\.001'):
    workdirs.claim(other, str(tmp_path))
  assert json.loads((tmp_path / 'config.json').read_text())['optimizer']['learning_rate'] == 1e-3


def test_how_a_run_is_carried_out_may_change(tiny_config, tmp_path):
  workdirs.claim(tiny_config, str(tmp_path))
  tiny_config.train.update(steps=40, log_every=1, checkpoint_every=3, keep=1, halt_after=2)
  tiny_config.mesh.update(data=2, fsdp=4)
  tiny_config.data.threads = 1
  workdirs.claim(tiny_config, str(tmp_path))
  assert json.loads((tmp_path / 'config.json').read_text())['train']['steps'] == 40
  assert [path.name for path in tmp_path.iterdir()] == ['config.json']
