"""The record of a run: lines, TensorBoard, a trace, bad batches, halting, the count of FLOPs."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util import tensor_util

from jaxgen.checkpoints.weights import load_weights
from jaxgen.core.errors import UserError
from jaxgen.models.layers.attention import attend
from jaxgen.models.layers.linear import Linear
from jaxgen.sharding.hosts import Hosts
from jaxgen.training.flops import count_flops
from jaxgen.training.loop import train
from jaxgen.core.hardware import peak_of
from jaxgen.training.metrics import clock
from jaxgen.training.metrics import cut_lines
from jaxgen.training.metrics import flops_rates
from jaxgen.training.metrics import ids_hash
from jaxgen.training.metrics import memory_peak
from jaxgen.operations.trace import Trace


def lines_of(workdir):
  return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def test_every_step_has_a_line_and_log_steps_the_losses_of_tasks_and_timesteps(straight):
  lines = lines_of(straight)
  assert [line['step'] for line in lines] == list(range(1, 21))
  always = {'step', 'loss', 'sample_ids', 'grad_norm', 'learning_rate', 'skipped', 'seconds',
            'images_per_second', 'tokens_per_second', 'padding', 'data_wait', 'tflops',
            'frozen_tflops', 'programs', 'compiled', 'goodput'}
  assert all(always <= line.keys() for line in lines)
  assert not any('hbm_peak_gb' in line or 'mfu' in line for line in lines)  # a CPU has none
  assert len({line['sample_ids'] for line in lines}) == 20
  for line in lines:  # eight rows of an image, 16 tokens, and a prompt of 40 tokens at the most
    assert line['images_per_second'] * line['seconds'] == pytest.approx(8)
    assert 8 * 16 < round(line['tokens_per_second'] * line['seconds']) <= 8 * (16 + 40)
    assert line['padding'] == 0 and 0 <= line['data_wait'] <= 1
  at_log = {name for line in lines if line['step'] % 5 == 0 for name in line}
  assert {'flow_matching/loss_source/pair', 'flow_matching/loss_source/image',
          'flow_matching/loss_t/0.25-0.50'} <= at_log
  assert not any('/' in name for line in lines if line['step'] % 5 for name in line)


def test_norms_of_groups_are_those_of_the_parameters_that_were_saved(straight):
  lines = {line['step']: line for line in lines_of(straight)}
  params, _ = load_weights(str(straight), ('bridge', 'denoiser'), 'params')
  for group, tree in params.items():
    norm = np.sqrt(sum(np.square(leaf.astype(np.float64)).sum() for leaf in jax.tree.leaves(tree)))
    assert lines[20][f'param_norm/{group}'] == pytest.approx(norm, rel=1e-5)
    # AdamW moves every parameter by about the rate.
    size = sum(leaf.size for leaf in jax.tree.leaves(tree))
    rate = lines[20]['learning_rate']
    assert 0 < lines[20][f'update_norm/{group}'] < 2 * rate * np.sqrt(size)
  assert not any(name.startswith('update_norm') and 'mllm' in name for name in lines[20])


def test_tensorboard_has_the_numbers_of_log_steps(straight):
  [file] = straight.glob('events.out.tfevents*')
  events = EventFileLoader(str(file)).Load()
  shown = {(event.step, value.tag): float(tensor_util.make_ndarray(value.tensor))
           for event in events for value in event.summary.value}
  lines = [line for line in lines_of(straight) if line['step'] % 5 == 0]
  expected = {(line['step'], name): value for line in lines for name, value in line.items()
              if name not in ('step', 'sample_ids')}
  assert shown == pytest.approx(expected) and len(shown) > 4 * 14


def test_no_program_is_made_after_the_first_save(straight):
  counts = [line['programs'] for line in lines_of(straight)]
  assert counts[0] > 2 and counts == [counts[0]] * 10 + [counts[10]] * 10


def test_the_trace_holds_the_steps_that_were_asked_for(straight):
  [file] = straight.glob('plugins/profile/steps_12_13/*.xplane.pb')
  events = [event for plane in jax.profiler.ProfileData.from_file(str(file)).planes
            for line in plane.lines for event in line.events]
  assert sorted(dict(event.stats)['step_num'] for event in events if event.name == 'train') == [
      12, 13]
  assert any('jit_train_step' in event.name for event in events)


@pytest.mark.parametrize('steps', [(1, 10), (21, 30)])
def test_a_trace_of_steps_that_will_not_come_is_refused(steps, tmp_path):
  with pytest.raises(UserError, match='--profile = .*goes from step 11 to 20'):
    Trace(steps, epath.Path(tmp_path), Hosts(None, 0, 1), done=10, last=20)


def test_frozen_modules_are_counted_apart(straight, tiny_base):
  line = lines_of(straight)[-1]
  per_step = {name: line[name] * line['seconds'] * 8e12 for name in ('tflops', 'frozen_tflops')}
  # The language model sees 8 rows of 40 tokens: twice its 0.06 M parameters, and back through it.
  assert 2 * 320 * 20_000 < per_step['frozen_tflops'] < 6 * 320 * 60_000
  assert per_step['tflops'] > per_step['frozen_tflops']


def test_the_fullest_device_counts():
  assert memory_peak([None, None]) is None
  assert memory_peak([{'peak_bytes_in_use': 3, 'bytes_in_use': 9}, {'peak_bytes_in_use': 5}]) == 5


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
  lines = [dict(step=step, loss=0.5, seconds=1.0) for step in range(1, 6)]
  texts = [json.dumps(line) + '\n' for line in lines]
  file.write_text(''.join(texts) + '{"step": 6, "lo')
  assert cut_lines(file, 3) == lines[:3]
  assert file.read_text() == ''.join(texts[:3])
  assert cut_lines(file, 0) == [] and file.read_text() == ''
  assert cut_lines(epath.Path(tmp_path / 'absent'), 3) == []


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


def test_frozen_kernels_have_the_flops_of_the_way_through_them():
  start, stack = jnp.ones((4, 8)), jnp.ones((3, 8, 8))

  def loss(start, stack):
    def layer(x, kernel):
      return Linear((8,), ('embed', 'mlp'), use_bias=False).apply({'params': {'kernel': kernel}}, x)
    return jnp.sum(jax.lax.scan(lambda x, kernel: (layer(x, kernel), None), start, stack)[0])

  product = 2 * 4 * 8 * 8
  assert count_flops(jax.value_and_grad(loss), start, stack) == (3 + 3) * product
  assert count_flops(jax.value_and_grad(loss, 1), start, stack) == (3 + 3 + 3) * product


def test_flops_of_attention_are_those_of_full_products_whatever_is_masked():
  rows, length, keys, heads, size = 2, 12, 20, 4, 8
  q, k = jnp.ones((rows, length, heads, size)), jnp.ones((rows, keys, 2, size))
  masks = dict(q_segments=jnp.zeros((rows, length), int), kv_segments=jnp.ones((rows, keys), int))

  def loss(q, k):
    return attend(q, k, k, **masks).sum()

  product = 2 * rows * heads * length * keys * size
  assert count_flops(loss, q, k) == 2 * product
  # Backward: by scores, values, queries and keys; that the scores are made again is left out.
  assert count_flops(jax.grad(loss, (0, 1)), q, k) == (2 + 4) * product


def test_mfu_is_of_the_models_that_train():
  flops = dict(trained=8e15, frozen=2e15)
  assert flops_rates(flops, 2.0 * 8, 0.0) == dict(tflops=500.0, frozen_tflops=125.0)
  assert flops_rates(flops, 2.0 * 8, peak_of('NVIDIA H800'))['mfu'] == pytest.approx(500 / 989)


@pytest.mark.parametrize('kind, tflops', [
    ('TPU v5', 459), ('TPU v5p', 459), ('TPU v5 lite', 0), ('TPU v6 lite', 918),
    ('NVIDIA H100 80GB HBM3', 989), ('cpu', 0)])
def test_peaks_go_by_the_name_of_the_device(kind, tflops):
  assert peak_of(kind) == tflops * 1e12
