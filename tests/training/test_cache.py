"""A run with cached latents is the run without; what a value depends on is in its key."""

import copy
import json
import os
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from jaxgen.checkpoints.weights import load_weights
from jaxgen.config import source
from jaxgen.config import to_json
from jaxgen.core.errors import UserError
from jaxgen.data.cache import Cache
from jaxgen.data.cache import check
from jaxgen.data.cache import image_key
from jaxgen.data.loader import make_loader
from jaxgen.data.sample import FileImage
from jaxgen.models.registry import section
from jaxgen.objectives.registry import make_objectives
from jaxgen.objectives.registry import needed_groups
from jaxgen.operations.programs import Programs
from jaxgen.sharding import partition
from jaxgen.sharding.mesh import make_mesh
from jaxgen.systems.registry import make_system
from jaxgen.training.caching import fingerprint
from jaxgen.training.caching import write_cache
from jaxgen.training.image_tokens import write_image_tokens
from jaxgen.training.latents import Feed
from jaxgen.training.latents import make_encoder
from jaxgen.training.loop import train
from jaxgen.training.state import init_state
from jaxgen.training.state import make_blueprint
from jaxgen.training.state import shardings
from jaxgen.training.states import write_states
from jaxgen.training.step import compile_step
from jaxgen.training.step import make_train_step
from tests.training.launched import CONFIG_FILE
from tests.training.launched import PATIENCE
from tests.training.launched import REPO
from tests.training.launched import finish
from tests.training.launched import free_port
from tests.training.launched import metrics_of
from tests.training.launched import wait_for
from tests.training.loaded import first_batches

# Of the same latent channels as the pixels of the tiny config, so that all runs share a step.
KL = section('kl', channels=12, block_channels=(8, 8), layers_per_block=1, norm_groups=4)


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
  """Twelve samples of two references, a target and three captions, as PNG and JPEG files that are
  decoded at reduced scale."""
  root, rng = tmp_path_factory.mktemp('photos'), np.random.default_rng(0)
  lines = []
  for index in range(12):
    names = [f'{index}_{number}.{"jpg" if index % 2 else "png"}' for number in range(3)]
    for name in names:
      coarse = rng.integers(0, 255, (10, 8 + index % 3, 3), np.uint8)
      Image.fromarray(coarse).resize((160, 200)).save(root / name)
    lines.append(json.dumps({'id': f'sample {index}', 'parts': [
        {'text': [f'a red circle {word}' for word in ('one', 'two', 'three')], 'role': 'user'},
        *({'image': name, 'role': role} for name, role in zip(
            names, ('reference', 'reference', 'target')))]}))
  (root / 'samples.jsonl').write_text('\n'.join(lines))
  return root


def cached(config, folder, **options):
  """The config with a cache, which is written first."""
  write_cache(config, str(folder), **options)
  return with_cache(config, folder)


def with_cache(config, folder):
  changed = copy.deepcopy(config)
  changed.data.cache = str(folder)
  return changed


class Steps:
  """The train step of the tiny config, compiled once, and losses that it gives."""

  def __init__(self, config):
    self.system, objectives = make_system(config), make_objectives(config)
    mesh = make_mesh(config.mesh)
    self.rows = partition.row_sharding(mesh, config.train.rows)
    blueprint = make_blueprint(config, self.system, needed_groups(self.system, objectives), mesh)
    state, self.frozen = init_state(config, self.system, blueprint, {})
    self.state, self.shardings = jax.device_get(state), shardings(blueprint.state)
    step = make_train_step(config, self.system, objectives, blueprint.optimizer)
    self.step = compile_step(step, blueprint, self.rows)

  def losses(self, config, params):
    """The sample ids and the bits of the loss of each of four steps."""
    system = make_system(config)
    loader = make_loader(config, system.layout)
    feed = Feed(loader, make_encoder(config, system, params, loader, self.rows), self.rows, 8)
    state, found = jax.device_put(self.state, self.shardings), []
    for _ in range(4):
      fed = next(feed)
      state, metrics = self.step(state, self.frozen, fed.batch)
      found.append((fed.ids, float(metrics['loss'])))
    feed.close()
    return found


def configure(config, photos):
  """Four steps on the photos and on each of them as an image alone, with every dropping."""
  config.data.sources = {
      'all': source('jsonl', 'reference', path=str(photos / 'samples.jsonl')),
      'alone': source('folder', 'image', path=str(photos))}
  config.data.update(clean_roles=('reference',), visual_tokens=48, patches=8)
  config.data.dropout.update(all=0.2, text=0.2, last_text=0.2, vision=0.2, latents=0.2)
  config.train.update(steps=4, log_every=1, checkpoint_every=4)
  return config


@pytest.fixture
def config(tiny_config, photos):
  return configure(tiny_config, photos)


@pytest.fixture(scope='module')
def steps(tiny_base, photos):
  return Steps(configure(copy.deepcopy(tiny_base), photos))


def test_losses_with_the_cache_equal_those_without(config, steps, tmp_path, capsys):
  faster = cached(config, tmp_path / 'cache', every=7)
  assert '36 entries written, 0 were there' in capsys.readouterr().out
  assert len(list((tmp_path / 'cache').glob('*.arrayrecord'))) == 6
  assert steps.losses(faster, {}) == steps.losses(config, {})


@pytest.mark.parametrize('every', [0, -1])
@pytest.mark.parametrize('write', [write_cache, write_states, write_image_tokens])
def test_a_file_has_an_entry_at_least_in_caches_of_all_kinds(config, write, every, tmp_path):
  with pytest.raises(UserError, match=f'--every = {every}: use 1 or more'):
    write(config, str(tmp_path / 'cache'), every=every)
  assert not (tmp_path / 'cache').exists()


def test_a_run_with_the_cache_equals_the_run_without(config, steps, tmp_path, capsys):
  """With an autoencoder that has weights, and through the loop."""
  config.model.autoencoder = KL
  faster = cached(config, tmp_path / 'cache')
  train(faster, str(tmp_path / 'run'))
  params, _ = load_weights(str(tmp_path / 'run'), ['autoencoder'])  # as for drawing from it
  losses = [loss for _, loss in steps.losses(config, params)]
  assert len(set(losses)) == 4
  assert [line['loss'] for line in metrics_of(tmp_path / 'run', 'loss')] == losses
  config.seed, config.init_from.autoencoder = 1, str(tmp_path / 'run')  # of the same weights
  write_cache(config, str(tmp_path / 'cache'))
  assert '0 entries written, 36 were there' in capsys.readouterr().out


def test_nothing_is_decoded_for_the_denoiser_nor_compiled(config, tmp_path):
  config = cached(config, tmp_path / 'cache')
  system, rows = make_system(config), partition.row_sharding(make_mesh(config.mesh), 8)
  loader = make_loader(config, system.layout)
  with Programs() as programs:
    encoder = make_encoder(config, system, {}, loader, rows)
  loaded = next(loader)
  loader.close()
  assert programs.count == 0 and not loaded.images
  np.testing.assert_array_equal(encoder(loaded), loaded.batch.visual.latents)


def test_the_key_holds_content_size_and_fit(photos, tmp_path):
  file = photos / '0_0.png'
  (tmp_path / 'renamed.png').write_bytes(file.read_bytes())
  key = image_key(FileImage(str(file)), (16, 16), (200, 160), 'crop')
  assert len(key) == 16
  assert key == image_key(file.read_bytes(), (16, 16), (200, 160), 'crop')
  assert key == image_key(FileImage(str(tmp_path / 'renamed.png')), (16, 16), (200, 160), 'crop')
  array = np.zeros((4, 6, 3), np.uint8)
  others = [image_key(file.read_bytes() + b'.', (16, 16), (200, 160), 'crop'),
            image_key(file.read_bytes(), (16, 24), (200, 160), 'crop'),
            image_key(file.read_bytes(), (16, 16), (200, 161), 'crop'),
            image_key(file.read_bytes(), (16, 16), (200, 160), 'pad'),
            image_key(array, (16, 16), (200, 160), 'crop'),
            image_key(array.reshape(6, 4, 3), (16, 16), (200, 160), 'crop')]
  assert len({key, *others}) == 7


def test_another_second_reference_or_size_is_missing_until_it_is_added(
    config, photos, tmp_path, capsys):
  for file in photos.iterdir():
    (tmp_path / file.name).write_bytes(file.read_bytes())
  config.data.sources = {'all': source('jsonl', 'reference', path=str(tmp_path / 'samples.jsonl'))}
  config.data.dropout.update(all=0.0, latents=0.0)
  faster = cached(config, tmp_path / 'cache')
  first_batches(faster)
  (tmp_path / '3_1.jpg').write_bytes((tmp_path / '5_0.jpg').read_bytes())
  first_batches(faster)  # those bytes are known under another name
  Image.new('RGB', (160, 200), 'red').save(tmp_path / '3_1.jpg')
  with pytest.raises(UserError, match='samples.jsonl:4: the latents of its reference image at 16 x '
                     '16 are missing; run `jaxgen data cache'):
    first_batches(faster)
  capsys.readouterr()
  write_cache(config, str(tmp_path / 'cache'))
  assert '1 entries written, 36 were there' in capsys.readouterr().out
  first_batches(faster)
  faster.data.update(image_size=24, visual_tokens=108)
  with pytest.raises(UserError, match='at 24 x 24 are missing'):
    first_batches(faster)


def test_a_stale_cache_is_refused_with_the_reason(config, tmp_path):
  config.model.autoencoder = KL
  config.data.sources = {'few': source('shapes', 'pair', limit=8)}
  faster = cached(config, tmp_path / 'cache')
  system = make_system(config)
  target = {'autoencoder': system.init(jax.random.PRNGKey(7), ('autoencoder',))['autoencoder']}
  with pytest.raises(UserError, match=r'data.cache = .*cache.*written with weights of the '
                                      r"autoencoder = '\w{32}', and now it is '\w{32}'"):
    check(faster.data.cache, fingerprint(config, system, target))
  changed = copy.deepcopy(config)
  changed.seed = 1  # and so other random weights
  with pytest.raises(UserError, match='--out.*weights of the autoencoder'):
    write_cache(changed, str(tmp_path / 'cache'))
  faster.model.autoencoder.scaling = 0.5
  with pytest.raises(UserError, match='autoencoder.scaling = 0.3611, and now it is 0.5'):
    check(faster.data.cache, fingerprint(faster, make_system(faster), target))
  with pytest.raises(UserError, match='no cache there; write one with'):
    first_batches(with_cache(config, tmp_path / 'nothing'))


def test_a_broken_image_is_skipped_as_without_the_cache(config, photos, tmp_path):
  (tmp_path / 'data').mkdir()
  for file in photos.glob('*.png'):
    data = file.read_bytes()
    (tmp_path / 'data' / file.name).write_bytes(data[:200] if file.name == '4_2.png' else data)
  config.data.sources = {'a': source('folder', 'pair', path=str(tmp_path / 'data'))}
  for file in photos.glob('*.png'):
    (tmp_path / 'data' / file.name).with_suffix('.txt').write_text('a circle')
  config.data.max_bad_share = 0.1
  faster = cached(config, tmp_path / 'cache')
  ids = [[loaded.ids for loaded in first_batches(each, 8)] for each in (config, faster)]
  assert ids[0] == ids[1] and '4_2.png' not in str(ids)


def test_a_source_without_an_end_and_a_damaged_file(config, tmp_path):
  endless = copy.deepcopy(config)
  endless.data.sources = {'shapes': source('shapes', 'pair')}
  with pytest.raises(UserError, match='sources.shapes.limit = 0: a source of kind shapes has no '
                     'end'):
    write_cache(endless, str(tmp_path / 'cache'))
  faster = cached(config, tmp_path / 'cache')
  file, = (tmp_path / 'cache').glob('*.arrayrecord')
  data = bytearray(file.read_bytes())
  data[len(data) // 2:len(data) // 2 + 5000] = bytes(5000)
  file.write_bytes(data)
  with pytest.raises(UserError, match=rf'{file.name}: damaged .*remove this file and run'):
    first_batches(faster)


def start(config, tmp_path, *, devices=8, process=0, count=1, port=0):
  """`jaxgen data cache` in a process of its own."""
  file = tmp_path / 'config.py'
  file.write_text(CONFIG_FILE.format(text=to_json(config)))
  xla = os.environ['XLA_FLAGS'].replace('device_count=8', f'device_count={devices}')
  together = [f'--coordinator=localhost:{port}', f'--num-processes={count}',
              f'--process-id={process}'] if count > 1 else []
  return subprocess.Popen(
      [sys.executable, '-m', 'jaxgen.cli', 'data', 'cache', f'--config={file}',
       f'--out={tmp_path / "cache"}', '--every=8', *together], cwd=REPO, text=True,
      env=os.environ | {'XLA_FLAGS': xla}, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)


def test_killed_in_the_middle_then_finished_by_two_processes(config, tmp_path):
  config.data.sources = {'shapes': source('shapes', 'pair', limit=2000)}
  process = start(config, tmp_path)
  wait_for(process, lambda: list((tmp_path / 'cache').glob('*.arrayrecord')))
  process.send_signal(signal.SIGKILL)
  process.communicate(timeout=PATIENCE)
  assert process.returncode == -signal.SIGKILL
  before = {file.name: file.stat().st_mtime_ns
            for file in (tmp_path / 'cache').glob('*.arrayrecord')}
  there = len(Cache(str(tmp_path / 'cache')))
  assert 0 < there == 8 * len(before) < 1900
  (tmp_path / 'cache' / 'latents-0.partial').write_bytes(b'half a file')
  port = free_port()
  codes, errors = finish([start(config, tmp_path, devices=4, process=index, count=2, port=port)
                          for index in range(2)])
  assert codes == [0, 0], errors
  assert all((tmp_path / 'cache' / name).stat().st_mtime_ns == then
             for name, then in before.items())
  assert not list((tmp_path / 'cache').glob('*.partial'))
  found = Cache(str(tmp_path / 'cache'))
  assert there < len(found) <= 2000
  batches = first_batches(with_cache(config, tmp_path / 'cache'), 10)
  assert all(loaded.batch.visual.latents.any() for loaded in batches)
