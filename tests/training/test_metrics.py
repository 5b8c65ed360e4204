"""The record of a run: lines, bad batches, halting, and the count of FLOPs."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from jaxgen.core.errors import UserError
from jaxgen.models.registry import build
from jaxgen.models.registry import init
from jaxgen.models.registry import section
from jaxgen.training.flops import count_flops
from jaxgen.training.loop import train
from jaxgen.training.metrics import clock
from jaxgen.training.metrics import cut_lines
from jaxgen.training.metrics import ids_hash
from jaxgen.training.metrics import peak_of


def lines_of(workdir):
  return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def test_every_step_has_a_line_and_log_steps_the_losses_of_tasks_and_timesteps(straight):
  lines = lines_of(straight)
  assert [line['step'] for line in lines] == list(range(1, 21))
  always = {'step', 'loss', 'sample_ids', 'grad_norm', 'learning_rate', 'skipped', 'seconds',
            'images_per_second', 'tokens_per_second', 'padding', 'data_wait', 'tflops'}
  assert all(always <= line.keys() for line in lines)
  assert len({line['sample_ids'] for line in lines}) == 20
  at_log = {name for line in lines if line['step'] % 5 == 0 for name in line}
  assert {'flow_matching/loss_task/pair', 'flow_matching/loss_task/image',
          'flow_matching/loss_t/0.25-0.50'} <= at_log
  assert not any('/' in name for line in lines if line['step'] % 5 for name in line)
  assert any(path.name.startswith('events.out.tfevents') for path in straight.iterdir())


def test_a_run_that_diverges_names_its_samples_and_halts(tiny_config, tmp_path):
  tiny_config.optimizer.learning_rate = 1e30
  tiny_config.train.halt_after = 3
  with pytest.raises(UserError, match=r'config\.train\.halt_after = 3.*bad_batches') as error:
    train(tiny_config, str(tmp_path))
  assert '\n' not in str(error.value)
  lines = lines_of(tmp_path)
  bad = [line for line in lines if line['loss'] is None]
  assert len(bad) == 3 and [line['skipped_in_a_row'] for line in bad] == [1, 2, 3]
  files = sorted((tmp_path / 'bad_batches').iterdir())
  assert [file.name for file in files] == [f'step_{line["step"]}.json' for line in bad]
  dump = json.loads(files[0].read_text())
  assert dump['hash'] == bad[0]['sample_ids'] and len(dump['sample_ids']) == 8
  assert all(row and all(isinstance(name, str) for name in row) for row in dump['sample_ids'])


def test_lines_after_the_restored_step_are_cut(tmp_path):
  file = epath.Path(tmp_path / 'metrics.jsonl')
  file.write_text(''.join(f'{{"step": {step}}}\n' for step in range(1, 6)) + '{"step": 6, "lo')
  cut_lines(file, 3)
  assert file.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n'
  cut_lines(file, 0)
  assert file.read_text() == ''
  cut_lines(epath.Path(tmp_path / 'absent'), 3)


def test_the_hash_of_sample_ids_depends_on_their_order():
  ids = np.arange(8, dtype=np.int32).reshape(4, 2)
  assert ids_hash(ids) == ids_hash(ids.copy()) != ids_hash(ids[::-1])


@pytest.mark.parametrize('seconds, text', [(4.4, '4s'), (185, '3m05s'), (7620, '2h07m')])
def test_clock(seconds, text):
  assert clock(seconds) == text


def test_flops_of_a_scanned_product_and_its_gradient():
  x, stack = jnp.ones((4, 8)), jnp.ones((3, 8, 8))

  def loss(stack):
    return jnp.sum(jax.lax.scan(lambda x, w: (x @ w, None), x, stack)[0])

  assert count_flops(loss, stack) == 3 * 2 * 4 * 8 * 8
  # Backward: two products per layer, less the one towards the input of the first.
  assert count_flops(jax.grad(loss), stack) in (3 * 3 * 512, (3 * 3 - 1) * 512)


def test_flops_agree_with_the_compiler_within_five_percent():
  model = build(section('mmdit', in_channels=64, cond_dim=256, width=256, heads=4,
                        double_blocks=1, single_blocks=1, axes_dims=(16, 24, 24)), jnp.float32)
  shapes = jax.eval_shape(lambda rng: init(model, rng), jax.random.key(0))
  rows = (2, 128)
  arguments = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in (
      ((*rows, 64), jnp.float32), ((2, 1), jnp.float32), ((*rows, 3), jnp.int32),
      (rows, jnp.int32), ((2, 32, 256), jnp.float32), ((2, 32, 3), jnp.int32),
      ((2, 32), jnp.int32))]
  ours = count_flops(model.apply, shapes, *arguments)
  theirs = jax.jit(model.apply).lower(shapes, *arguments).cost_analysis()['flops']
  assert ours == pytest.approx(theirs, rel=0.05)


@pytest.mark.parametrize('kind, tflops', [
    ('TPU v5', 459), ('TPU v5p', 459), ('TPU v5 lite', 0), ('TPU v6 lite', 918),
    ('NVIDIA H100 80GB HBM3', 989), ('cpu', 0)])
def test_peaks_go_by_the_name_of_the_device(kind, tflops):
  assert peak_of(kind) == tflops * 1e12
