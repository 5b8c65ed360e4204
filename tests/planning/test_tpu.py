"""Plans for TPU slices, by the command: the two cheapest full-size stages, and far too much."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def run_plan(config, topology, *words):
  # The tests' own XLA flags would compile a program that nobody would run.
  environment = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}
  return subprocess.run(
      [sys.executable, '-m', 'jaxgen.cli', 'plan', f'--config=configs/iomm/{config}.py',
       f'--topology={topology}', *words], cwd=ROOT, env=environment, text=True,
      capture_output=True, check=False)


@pytest.mark.parametrize('config, rows, fsdp', [
    ('pretrain_b', 1024, 8), pytest.param('finetune_b_512', 256, 1, marks=pytest.mark.slow)])
def test_iomm_b_fits_a_slice_of_64_chips(config, rows, fsdp, tmp_path):
  done = run_plan(config, 'tpu:v5p:4x4x4', f'--json={tmp_path / "plans/plan.json"}')
  assert done.returncode == 0, done.stderr
  plan = json.loads((tmp_path / 'plans/plan.json').read_text())
  assert plan['fits'] and plan['devices'] == 64 and plan['rows'] == rows
  # 1.57 B of the denoiser and 28.7 M of the adapter train; the rest is InternVL and the VAE.
  assert round(plan['params_trainable'] / 1e9, 1) == 1.6
  assert plan['params_total'] - plan['params_trainable'] > 2.1e9
  # fp32 masters, EMA and two moments.
  state = plan['parameter_bytes'] + plan['optimizer_bytes']
  assert plan['mesh']['fsdp'] == fsdp
  assert state == pytest.approx(16 * plan['params_trainable'] / fsdp, rel=0.01)
  # Forward and backward of 1.57 B over 1024 image tokens and the prompt's, and the frozen model.
  assert 6 * 1.57e9 * 1024 * rows < plan['flops_per_step'] < 6 * 5e9 * 2048 * rows
  assert plan['flops']['frozen']['dense'] > 0 and plan['flops']['trained']['attention'] > 0
  # At the least, gradients of two bytes are summed: each is sent and sent back.
  assert plan['collective_bytes'] > 2 * 2 * plan['params_trainable'] * 63 / 64
  assert 0 < plan['compute_seconds'] <= plan['lower_bound_seconds'] < 60


@pytest.mark.slow
def test_a_step_that_does_not_fit_ends_with_1_and_the_lever(tiny_tokenizer, tmp_path):
  done = run_plan('tiny', 'tpu:v5p:2x2x1', f'--json={tmp_path / "plans/plan.json"}',
                  f'--config.train.rows={2**22}', f'--config.data.tokenizer={tiny_tokenizer}')
  assert done.returncode == 1 and 'DOES NOT FIT' in done.stdout
  [line] = done.stderr.splitlines()
  assert re.fullmatch(
      r"jaxgen: --topology = 'tpu:v5p:2x2x1': the step needs [\d.]+ GiB of 95.00 GiB on each "
      r'device, [\d.]+ GiB too much; activations of 1048576 rows take [\d.]+ GiB: set '
      r'train.accumulate to \d+', line)
  plan = json.loads((tmp_path / 'plans/plan.json').read_text())
  assert not plan['fits'] and plan['peak_bytes'] > plan['hbm_bytes'] == 95 * 2**30
