"""Fingerprints: what they hold, and who is called odd."""

import json

import pytest

from jaxgen.operations import fingerprint
from tests.sharding.test_hosts import in_threads
from tests.sharding.test_hosts import pair  # a fixture


def test_holds_config_code_versions_and_flags(tiny_config):
  parts = fingerprint.describe(tiny_config, 'runs/a')
  assert parts['config.train.rows'] == '8' and parts['--workdir'] == 'runs/a'
  assert parts['config.trainable'] == json.dumps([list(rule) for rule in tiny_config.trainable])
  assert parts['version of jax'][0].isdigit() and parts['version of libtpu']
  assert '--xla_force_host_platform_device_count=8' in parts['environment variable XLA_FLAGS']
  assert len(parts['code of jaxgen']) == 16
  tiny_config.optimizer.learning_rate = 2e-3
  other = fingerprint.describe(tiny_config, 'runs/a')
  assert {name for name in parts if parts[name] != other[name]} == {
      'config.optimizer.learning_rate'}


@pytest.mark.parametrize('values, found', [
    ('aaa', None),
    ('aba', ('x', 'b', 'a', [1])),
    ('baa', ('x', 'b', 'a', [0])),  # the coordinator can be the odd one
    ('ab', ('x', 'b', 'a', [1])),
    ('abca', ('x', 'b', 'a', [1, 2])),
])
def test_the_odd_one_is_not_with_the_most(values, found):
  assert fingerprint.odd_ones([{'same': '1', 'x': value} for value in values]) == found


def test_another_program_is_named_on_every_host(pair):
  found = in_threads([lambda host=host, text=text: fingerprint.check_same(
      host, 'program', {'the train step': text}) for host, text in zip(pair, 'ab')])
  assert [str(error) for error in found] == 2 * [
      'process 1 (right): the train step is b there and a on the 1 other; make them the same and '
      'start again']


def test_another_name_or_line_of_code_is_seen_and_other_files_are_not(tmp_path):
  def hashed(name, **files):
    for path, text in files.items():
      file = tmp_path / name / path.replace('_', '.')
      file.parent.mkdir(exist_ok=True)
      file.write_text(text)
    return fingerprint.code_hash(tmp_path / name)

  first = hashed('one', a_py='x = 1')
  assert hashed('two', a_py='x = 1', a_pyc='cache') == first
  assert len({first, hashed('three', a_py='x = 2'), hashed('four', b_py='x = 1'),
              hashed('five', a_py='x = 1', b_py='')}) == 4


def test_a_part_that_only_one_has():
  assert fingerprint.odd_ones([{'x': '1'}, {}, {'x': '1'}]) == ('x', 'absent', '1', [1])
