"""Two processes of four devices load one model, of another library or ours, and save it."""

import json
import os
import subprocess
import sys

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxgen.config import to_json
from jaxgen.conversion import save_pretrained
from jaxgen.core import trees
from jaxgen.checkpoints.weights import save_weights
from jaxgen.models import registry
from tests.training.launched import free_port

SECTION = registry.section('mmdit', in_channels=48, cond_dim=32, width=1024, heads=8,
                           double_blocks=1, single_blocks=4, axes_dims=(32, 48, 48))
PROCESS = '''
import json, pathlib, re, sys
from jaxgen.sharding.processes import start_processes
start_processes()
import jax, numpy as np
from jaxgen.config import from_json
from jaxgen.conversion import save_pretrained
from jaxgen.conversion.pretrained import peak_memory, read_external
from jaxgen.core.errors import UserError
from jaxgen.sharding.mesh import make_mesh
from jaxgen.systems.registry import make_system
from jaxgen.training.init_from import load_groups
from jaxgen.training.state import make_blueprint
config, out = from_json(open(sys.argv[1]).read()), sys.argv[2]
system = make_system(config)
blueprint = make_blueprint(config, system, ('bridge', 'denoiser'), make_mesh(config.mesh))
jax.block_until_ready(jax.device_put(0.0))
system_file = lambda name, pattern: int(re.search(
    pattern, pathlib.Path(f'/proc/self/{name}').read_text())[1])
def start(path):
  config.init_from.denoiser = path
  loaded, _ = load_groups(config, blueprint, read_external)
  kernel, goal = (tree['denoiser']['image_in']['kernel'] for tree in (loaded, blueprint.stored))
  kernel.onto(goal.sharding, goal.dtype)  # what is imported and compiled once does not count
  pathlib.Path('/proc/self/clear_refs').write_text('5')  # the peak is what is held now
  before, read = peak_memory(), system_file('io', r'rchar: (\\d+)')
  params = jax.tree.map(lambda leaf, goal: leaf.onto(goal.sharding, goal.dtype),
                        loaded['denoiser'], blueprint.stored['denoiser'])
  jax.block_until_ready(params)
  return params, loaded, dict(
      grown=peak_memory() - before, read=system_file('io', r'rchar: (\\d+)') - read,
      own=sum(shard.data.nbytes for leaf in jax.tree.leaves(params)
              for shard in leaf.addressable_shards if shard.replica_id == 0))
params, loaded, found = start(sys.argv[3])
found['counted'] = loaded['denoiser']['image_in']['kernel'].model.bytes_read
again, _, found['ours'] = start(sys.argv[4])
found['same'] = all(np.array_equal(a.data, b.data)
                    for one, other in zip(jax.tree.leaves(params), jax.tree.leaves(again))
                    for a, b in zip(one.addressable_shards, other.addressable_shards))
save_pretrained(system.models['denoiser'], params, out)
try:
  save_pretrained(system.models['denoiser'], params, out)
except UserError as error:
  found['said'] = str(error)
print(json.dumps(found))
'''


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  """Folder of a model; ``weights`` next to it holds the same in jaxgen's format."""
  module, rng = registry.build(SECTION, jnp.bfloat16), np.random.default_rng(0)

  def numbers(_, leaf):  # nearly all of their bits are random: nothing here can be compressed
    return rng.integers(0, 0x7f80, leaf.shape, np.uint16).view(ml_dtypes.bfloat16)

  folder = tmp_path_factory.mktemp('source') / 'denoiser'
  params = trees.map_named(numbers, registry.param_shapes(module))
  save_pretrained(module, params, str(folder))
  save_weights(str(folder.parent / 'weights'), {'denoiser': params},
               json.dumps({'model': {'denoiser': SECTION}}))
  return folder


@pytest.fixture(scope='module')
def both(source, tiny_base, tmp_path_factory):
  """The report of each process, and the folder that they wrote together."""
  root = tmp_path_factory.mktemp('both')
  config = tiny_base.copy_and_resolve_references()
  with config.unlocked():
    config.model.denoiser = SECTION
    config.model.frozen_dtype = 'bfloat16'
    config.trainable = (('bridge/.*', True), ('.*', False))
    config.mesh.update(data=1, fsdp=8)
  (root / 'config.json').write_text(to_json(config))
  port, flags = free_port(), os.environ['XLA_FLAGS'].replace('device_count=8', 'device_count=4')
  processes = [subprocess.Popen(
      [sys.executable, '-c', PROCESS, str(root / 'config.json'), str(root / 'out'), str(source),
       str(source.parent / 'weights')], text=True,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE,
      env=os.environ | {'XLA_FLAGS': flags, 'JAXGEN_COORDINATOR': f'localhost:{port}',
                        'JAXGEN_NUM_PROCESSES': '2', 'JAXGEN_PROCESS_ID': str(index)})
               for index in range(2)]
  results = [process.communicate(timeout=900) for process in processes]
  assert not any(process.returncode for process in processes), [text[-3000:] for _, text in results]
  return [json.loads(out.splitlines()[-1]) for out, _ in results], root / 'out'


@pytest.mark.parametrize('kind', ['theirs', 'ours'])
def test_each_reads_its_own_shards_and_holds_little_more(both, source, kind):
  found, _ = both
  total = (source / 'diffusion_pytorch_model.safetensors').stat().st_size
  largest = 2 * 6 * 1024**2  # bytes of a modulation's kernel
  for each in found:
    each = each if kind == 'theirs' else each['ours']
    print(f'{kind}: {each}, of {total} bytes')
    assert 0.48 * total < each['own'] < 0.53 * total
    if kind == 'theirs':  # of ours whole chunks are read
      assert each['read'] < 1.05 * each['own'] + 1e6 and each['counted'] < 1.05 * each['own'], each
    assert each['grown'] < each['own'] + largest + 64e6, (each, largest)
  assert 0.53 * total + largest + 64e6 < 0.95 * total  # so that the bound means something


def test_both_hold_the_same(both):
  assert all(each['same'] for each in both[0])


def test_together_they_write_what_was_read(both, source):
  _, out = both
  assert sorted(file.name for file in out.iterdir()) == sorted(
      file.name for file in source.iterdir())
  for file in source.iterdir():
    assert file.read_bytes() == (out / file.name).read_bytes()


def test_both_hear_of_what_process_0_cannot_write(both):
  first, second = (each['said'] for each in both[0])
  assert 'not empty; choose another --out' in first
  assert 'could not be written; process 0 says why' in second
