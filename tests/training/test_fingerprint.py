"""Fingerprints: what they hold, and who is called odd."""

import json

import pytest

from jaxgen.training import fingerprint


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


def test_a_part_that_only_one_has():
  assert fingerprint.odd_ones([{'x': '1'}, {}, {'x': '1'}]) == ('x', 'absent', '1', [1])
