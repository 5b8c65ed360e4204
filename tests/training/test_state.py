"""What trains, what is frozen, where runs begin and whose a workdir is."""

import copy
import json

import jax
import numpy as np
import pytest
from etils import epath

from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.checkpoints.weights import load_weights
from jaxgen.models.registry import section
from jaxgen.objectives.registry import make_objectives
from jaxgen.objectives.registry import needed_groups
from jaxgen.sharding.hosts import Hosts
from jaxgen.sharding.mesh import make_mesh
from jaxgen.systems.registry import make_system
from jaxgen.training import workdir as workdirs
from jaxgen.training.init_from import load_groups
from jaxgen.training.state import init_state
from jaxgen.training.state import make_blueprint
from jaxgen.training.state import trainable_paths

ALONE = Hosts(None, 0, 1)


def blueprint_of(config):
  system = make_system(config)
  groups = needed_groups(system, make_objectives(config))
  return make_blueprint(config, system, groups, make_mesh(config.mesh))


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


def test_groups_start_from_the_ema_of_another_run(tiny_config, straight):
  tiny_config.init_from.update(mllm=str(straight), denoiser=str(straight))
  blueprint = blueprint_of(tiny_config)
  loaded, sources = load_groups(tiny_config, blueprint)
  before = f'from {straight} (ema)'
  assert sources == {'autoencoder': 'random', 'bridge': 'random', 'denoiser': before,
                     'mllm': before}
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
  workdirs.claim(tiny_config, str(tmp_path), ALONE)
  other = copy.deepcopy(tiny_config)
  other.optimizer.b2 = 0.5
  with pytest.raises(UserError, match=r'config\.optimizer\.b2 = 0\.5.*0\.95'):
    workdirs.claim(other, str(tmp_path), ALONE)
  assert json.loads((tmp_path / 'config.json').read_text())['optimizer']['b2'] == 0.95


def test_how_a_run_is_carried_out_may_change(tiny_config, tmp_path):
  workdirs.claim(tiny_config, str(tmp_path), ALONE)
  tiny_config.train.update(steps=40, log_every=1, checkpoint_every=3, keep=1, halt_after=2)
  tiny_config.mesh.update(data=2, fsdp=4)
  tiny_config.data.threads = 1
  workdirs.claim(tiny_config, str(tmp_path), ALONE)
  assert json.loads((tmp_path / 'config.json').read_text())['train']['steps'] == 40
  assert {path.name for path in tmp_path.iterdir()} == {'config.json', 'tokenizer'}


def test_a_damaged_config_is_named(tiny_config, tmp_path):
  workdirs.claim(tiny_config, str(tmp_path), ALONE)
  file = tmp_path / 'config.json'
  file.write_text(file.read_text()[:500])
  with pytest.raises(UserError, match='config.json: damaged .*; copy it back'):
    workdirs.claim(tiny_config, str(tmp_path), ALONE)


def test_sources_that_have_grown_or_shrunk_are_told(tmp_path):
  workdir = epath.Path(tmp_path)
  for now, said in (({'a': 5, 'b': 7}, ''), ({'a': 5, 'b': 7}, ''),
                    ({'a': 6, 'b': 7, 'c': 1}, '; records of a 5 -> 6; these are in another order'),
                    ({'a': 2, 'b': 8, 'c': 1}, '; records of a 6 -> 2, b 7 -> 8; these are')):
    assert workdirs.record_changes(workdir, now, ALONE).startswith(said) and (
        said or not workdirs.record_changes(workdir, now, ALONE))


def test_what_messages_advise_may_change_and_is_said(tiny_config, tmp_path):
  """Samples too large, captions too long, broken records, a loss that is not finite."""
  before = copy.deepcopy(tiny_config)
  workdirs.claim(tiny_config, str(tmp_path), ALONE)
  tiny_config.data.update(prompt_tokens=999, visual_tokens=998, patches=996, max_bad_share=0.5,
                          oversize='skip', max_references=2)
  tiny_config.optimizer.learning_rate = 3e-4
  workdirs.claim(tiny_config, str(tmp_path), ALONE)
  said = workdirs.changes(before, tiny_config, 6)
  for text in ('data.max_bad_share 0.01 -> 0.5', 'data.oversize refuse -> skip',
               'data.max_references 0 -> 2',
               'data.prompt_tokens', '-> 999', 'data.visual_tokens', '-> 998', 'data.patches',
               'optimizer.learning_rate 0.001 -> 0.0003'):
    assert text in said


@pytest.mark.parametrize('schedule, step, rates', [
    ('constant', 20, ''),
    ('cosine', 20, ', which the schedule follows: learning rate 0 -> 0.0005'),
    ('cosine', 10, ', which the schedule follows: learning rate 0.0005 -> 0.000854')])
def test_another_number_of_steps_says_how_the_rate_jumps(tiny_config, schedule, step, rates):
  tiny_config.optimizer.schedule = schedule
  longer = copy.deepcopy(tiny_config)
  longer.train.steps = 40
  assert workdirs.changes(tiny_config, longer, step) == f'; train.steps 20 -> 40{rates}'
  assert workdirs.changes(longer, longer, step) == workdirs.changes(None, longer, step) == ''


def test_a_workdir_from_before_a_field_is_still_its_run(tiny_config, tmp_path):
  workdirs.claim(tiny_config, str(tmp_path), ALONE)
  file = tmp_path / 'config.json'
  old = json.loads(file.read_text())
  del old['model']['mllm']['vision']['remat'], old['train']['zero']
  file.write_text(json.dumps(old))
  workdirs.claim(tiny_config, str(tmp_path), ALONE)
  file.write_text(json.dumps(old))
  tiny_config.model.mllm.vision.remat = 'full'
  with pytest.raises(UserError, match=r"vision\.remat = 'full'.*'none'"):
    workdirs.claim(tiny_config, str(tmp_path), ALONE)


CHANGES = (('mllm/text/(embedding|head)', 'extend'), ('bridge/queries', 'extend'),
           ('denoiser/text_in/.*', 'reinit'), ('denoiser/single_blocks/.*', 'reinit'),
           ('denoiser/double_blocks/.*', 'drop'))


def test_new_shapes_are_reinitialised_where_the_config_says_so(tiny_config, straight, capsys):
  """More tokens and queries keep the old rows, another caption width is reinitialised."""
  tiny_config.init_from.update({group: str(straight) for group in ('mllm', 'bridge', 'denoiser')})
  tiny_config.model.mllm.text.vocab += 8
  tiny_config.model.bridge.queries += 2
  tiny_config.model.denoiser.single_blocks = 1
  with pytest.raises(UserError, match=r'1 misshapen: bridge/queries .*init_from\.changes'):
    load_groups(tiny_config, blueprint_of(tiny_config))
  tiny_config.init_from.changes = CHANGES[:2] + CHANGES[3:4]
  blueprint = blueprint_of(tiny_config)
  loaded, _ = load_groups(tiny_config, blueprint)
  report = capsys.readouterr().err
  assert '1 extended: bridge/queries' in report
  assert 'extended: mllm/text/embedding' in report
  assert 'reinitialised: denoiser/single_blocks/' in report and '; 0 ' not in report
  state, frozen = init_state(tiny_config, make_system(tiny_config), blueprint, loaded)
  old, _ = load_weights(str(straight), ['mllm', 'bridge', 'denoiser'])
  params = jax.device_get(trees.merge(state.params, frozen))
  rows = len(old['mllm']['text']['embedding'])
  embedding = params['mllm']['text']['embedding']
  np.testing.assert_array_equal(embedding[:rows], old['mllm']['text']['embedding'])
  assert len(embedding) == rows + 8 and embedding[rows:].std() > 0
  queries = params['bridge']['queries']
  np.testing.assert_array_equal(queries[:-2], old['bridge']['queries'])
  assert queries[-2:].std() > 0
  jax.tree.map(np.testing.assert_array_equal, params['denoiser']['double_blocks'],
               old['denoiser']['double_blocks'])


def test_changes_that_match_nothing_are_named(tiny_config, straight):
  tiny_config.init_from.update(denoiser=str(straight), changes=(('denoyser/.*', 'reinit'),))
  with pytest.raises(UserError, match=r"changes = 'denoyser/\.\*': .*matches no parameter"):
    load_groups(tiny_config, blueprint_of(tiny_config))


def test_models_of_other_libraries_are_read_by_who_knows_them(tiny_config, straight, tmp_path):
  tree, _ = load_weights(str(straight), ['denoiser'])
  asked = []

  def read_external(path):
    asked.append(path)
    return tree['denoiser']

  tiny_config.init_from.update(denoiser='owner/name@main', mllm=str(straight))
  loaded, _ = load_groups(tiny_config, blueprint_of(tiny_config), read_external)
  assert asked == ['owner/name@main']
  jax.tree.map(np.testing.assert_array_equal, loaded['denoiser'], tree['denoiser'])
