"""The two cheapest full-size stages, compiled for a TPU slice through the command itself."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize('config, rows, fsdp', [
    ('pretrain_b', 1024, 8), ('finetune_b_512', 256, 1)])
def test_iomm_b_fits_a_slice_of_64_chips(config, rows, fsdp, tmp_path):
  words = ['plan', f'--config=configs/iomm/{config}.py', '--topology=tpu:v5p:4x4x4',
           f'--json={tmp_path / "plan.json"}']
  # The tests' own XLA flags would compile a program that nobody would run.
  environment = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}
  done = subprocess.run([sys.executable, '-m', 'jaxgen.cli', *words], cwd=ROOT, env=environment,
                        text=True, capture_output=True, check=False)
  assert done.returncode == 0, done.stderr
  plan = json.loads((tmp_path / 'plan.json').read_text())
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
