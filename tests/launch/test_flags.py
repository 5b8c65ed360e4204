"""The compilers' flags: known to the version they are pinned to, and good for a real step."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
TINY_STEP = 'import jax, jax.numpy as jnp; print(jax.jit(jnp.sin)(0.0))'


def with_flags(flags, *command):
  """Runs a command with the flags of a file in place of those of the tests."""
  code = f'set -a; source launch/flags/{flags}; exec "$@"'
  environ = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}
  return subprocess.run(['bash', '-c', code, 'bash', *command], cwd=ROOT, text=True,
                        capture_output=True, check=False, env=environ)


@pytest.mark.parametrize('flags', ['gpu_h100.env', 'gpu_h800.env'])
def test_xla_knows_the_flags(flags):
  result = with_flags(flags, sys.executable, '-c', TINY_STEP)
  assert (result.returncode, result.stdout) == (0, '0.0\n'), result.stderr


def test_xla_refuses_a_flag_that_it_does_not_know():
  result = with_flags('gpu_h100.env', 'env', 'XLA_FLAGS=--xla_gpu_make_it_fast=true',
                      sys.executable, '-c', TINY_STEP)
  assert result.returncode != 0 and 'xla_gpu_make_it_fast' in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize('flags, topology', [('tpu_v5p.env', 'tpu:v5p:2x2x1'),
                                             ('tpu_v6e.env', 'tpu:v6e:2x2')])
def test_the_tpu_compiler_makes_a_train_step_with_the_flags(flags, topology, tiny_tokenizer):
  result = with_flags(flags, sys.executable, '-m', 'jaxgen.cli', 'plan',
                      '--config=configs/iomm/tiny.py', f'--topology={topology}',
                      f'--config.data.tokenizer={tiny_tokenizer}')
  assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize('flags', ['gpu_h100.env', 'gpu_h800.env'])
def test_a_run_takes_the_flags_for_gpus(flags, tiny_tokenizer, tmp_path):
  result = with_flags(flags, sys.executable, '-m', 'jaxgen.cli', 'train',
                      '--config=configs/iomm/tiny.py', f'--workdir={tmp_path / "run"}',
                      f'--config.data.tokenizer={tiny_tokenizer}', '--config.train.steps=2',
                      '--config.train.rows=2')
  assert result.returncode == 0, result.stderr[-2000:]
