"""``jaxgen finetune``: a pipeline and a folder of photographs in, files for other programs out."""

import contextlib
import io
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers import FluxKontextPipeline
from PIL import Image

from jaxgen import cli
from jaxgen.checkpoints.weights import load_weights
from jaxgen.checkpoints.weights import open_frozen
from jaxgen.config import load_config
from jaxgen.conversion import adapters
from jaxgen.conversion.pipelines import open_pipeline
from jaxgen.conversion.pretrained import read_params
from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.finetuning import fit
from jaxgen.finetuning import folder as folders
from jaxgen.finetuning.recipe import recipe
from jaxgen.models.layers import lora
from jaxgen.operations import hub
from jaxgen.sampling import validation
from jaxgen.systems.registry import make_system
from tests.systems import tiny_pipelines

PHOTOS = pathlib.Path(__file__).parents[2] / 'shared/data/photos'
CAPTIONS = {'backpack_00': 'a red backpack on a rock', 'backpack_02': 'a backpack in the grass',
            'backpack_03': 'a backpack', 'backpack_05': 'a backpack by the sea'}


@pytest.fixture(scope='module')
def base(tmp_path_factory) -> pathlib.Path:
  return pathlib.Path(tiny_pipelines.save_flux(tmp_path_factory.mktemp('base') / 'flux'))


@pytest.fixture(scope='module')
def photos(tmp_path_factory) -> pathlib.Path:
  """Four photographs of one thing, or in a clone without them noise; captions beside them."""
  folder, rng = tmp_path_factory.mktemp('photos'), np.random.default_rng(0)
  for name, caption in CAPTIONS.items():
    if PHOTOS.exists():
      shutil.copy(PHOTOS / f'{name}.jpg', folder)
    else:
      Image.fromarray(rng.integers(0, 256, (384, 384, 3), np.uint8)).save(folder / f'{name}.jpg')
    (folder / f'{name}.txt').write_text(caption)
  return folder


def words(base, photos, workdir):
  return ['finetune', f'--base={base}', f'--data={photos}', f'--workdir={workdir}', '--lora=4',
          '--size=32', '--steps=3', '--config.data.prompt_tokens=32', '--config.sampling.steps=1',
          '--config.train.checkpoint_every=2',
          '--config.validation.every=2', '--config.optimizer.learning_rate=0.1']


@pytest.fixture(scope='module')
def run(base, photos, tmp_path_factory) -> pathlib.Path:
  workdir = tmp_path_factory.mktemp('runs') / 'mine'
  assert cli.main(words(base, photos, workdir)) == 0
  return workdir


def test_what_a_run_leaves(run, base):
  export = run / 'export'
  assert sorted(file.name for file in export.iterdir()) == sorted(
      ['README.md', 'config.json', *adapters.NAMES.values()])
  card = (export / 'README.md').read_text()
  for text in ('Adapters of rank 4', str(base), '4 samples; folder', '3 of 8 images'):
    assert text in card
  for step in ('000002', '000003'):
    assert {file.name for file in (run / f'samples/validation/{step}_params').iterdir()} == {
        '0000.png', '0001.png', 'results.json'}
  asked = json.loads((run / 'samples/validation/000003_params/results.json').read_text())
  assert [entry['parts'][0]['text'] for entry in asked] == list(CAPTIONS.values())[:2]


def test_diffusers_draws_with_the_adapters(run, base):
  pipeline = DiffusionPipeline.from_pretrained(str(base))
  pipeline.set_progress_bar_config(disable=True)

  def drawn():
    return np.asarray(pipeline('a backpack', height=32, width=32, num_inference_steps=1,
                               generator=torch.manual_seed(0)).images[0]).astype(int)

  before = drawn()
  pipeline.load_lora_weights(str(run / 'export'))
  assert np.abs(drawn() - before).max() > 1


@pytest.mark.parametrize('name', adapters.NAMES.values())
def test_files_add_to_the_base_what_was_trained(run, base, name):
  models = open_pipeline(str(base)).models
  params = {'denoiser': read_params(models['denoiser'])}
  whole, half, none = (trees.flatten(adapters.opened([f'{run}/export/{name}:{weight}'], models)(
      params)) for weight in (1, 0.5, 0))
  trained = trees.flatten({'denoiser': lora.merge(load_weights(str(run), ['denoiser'])[0][
      'denoiser'])})
  for path, kernel in trees.flatten(params).items():
    np.testing.assert_allclose(whole[path], trained[path], atol=1e-6)
    np.testing.assert_allclose(half[path], (trained[path] + kernel) / 2, atol=1e-6)
    np.testing.assert_array_equal(none[path], kernel)
  assert any(np.abs(trained[path] - kernel).max() > 1e-3
             for path, kernel in trees.flatten(params).items())


@pytest.fixture(scope='module')
def again(run, base, photos, tmp_path_factory):
  """``(run, what it said, shapes that were on the devices at a save)``: killed behind step 2, it
  has gone on with a file of requests, which lies where it was called."""
  folder, live = tmp_path_factory.mktemp('killed'), set()
  copied = shutil.copytree(run, folder / 'again')
  for left in ('checkpoints/3', 'export'):
    shutil.rmtree(copied / left)
  (folder / 'prompts.txt').write_text('a backpack\n')

  def observed(*arguments):
    live.update(array.shape for array in jax.live_arrays())
    return open_frozen(*arguments)

  with (pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said,
        contextlib.redirect_stderr(said)):
    patch.setattr(validation, 'open_frozen', observed)
    patch.chdir(folder)
    assert cli.main([*words(base, photos, copied), '--validate=prompts.txt']) == 0
  return copied, said.getvalue(), live


def test_goes_on_after_a_kill_and_holds_no_towers_while_it_trains(again, run):
  """At a save, before the other models are read to draw, only the denoiser is on the devices."""
  folder, said, live = again
  for text in ('again: resumes at step 2', 'data: folder; samples: 4 pair',
               '0 entries written, 4 were there', '0 prompts written, 5 were there'):
    assert text in said
  file = adapters.NAMES['diffusers']
  assert (folder / 'export' / file).read_bytes() == (run / 'export' / file).read_bytes()
  shapes = make_system(load_config(str(folder / 'config.json'))).shapes()
  denoiser = {leaf.shape for leaf in jax.tree.leaves(shapes['denoiser'])}
  others = {leaf.shape for group in ('text_encoder', 'text_encoder_2', 'autoencoder')
            for leaf in jax.tree.leaves(shapes[group]) if leaf.ndim > 1} - denoiser
  assert others and not others & live and denoiser <= live


def test_the_config_of_a_run_names_its_file_of_requests(again, run, capsys):
  """So that ``train`` goes on with it, and draws the same."""
  folder, _, _ = again
  place = 'samples/validation/000003_params'

  def drawn():
    asked = json.loads((folder / place / 'results.json').read_text())
    assert [entry['parts'][0]['text'] for entry in asked] == ['a backpack']
    return (folder / place / '0000.png').read_bytes()

  before = drawn()
  for left in ('checkpoints/3', place):
    shutil.rmtree(folder / left)
  assert cli.main(['train', f'--config={folder}/config.json', f'--workdir={folder}']) == 0
  assert 'again: resumes at step 2' in capsys.readouterr().err
  assert drawn() == before != (run / place / '0000.png').read_bytes()
  assert load_config(f'{folder}/config.json').validation.requests == str(
      folder.parent / 'prompts.txt')


@pytest.fixture(scope='module')
def kontext(tmp_path_factory) -> str:
  return tiny_pipelines.save_flux(tmp_path_factory.mktemp('kontext') / 'kontext',
                                  FluxKontextPipeline)


@pytest.fixture
def edits(tmp_path) -> pathlib.Path:
  """Two targets with captions, each with two controls."""
  rng = np.random.default_rng(0)
  for name in ('one', 'two'):
    for folder, size in (('target', (48, 32)), ('control1', (48, 32)), ('control2', (32, 32))):
      (tmp_path / folder).mkdir(exist_ok=True)
      Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(
          tmp_path / folder / f'{name}.png')
    (tmp_path / f'target/{name}.txt').write_text(f'put {name} on the table')
  return tmp_path


def test_controls_are_given_images(kontext, edits):
  config = recipe(open_pipeline(kontext).config, str(edits), rank=4, size=32, steps=10)
  found = folders.survey(str(edits), config, make_system(config))
  assert found.layout == 'controls' and found.tasks == {'reference': 2}
  (height, width), = found.sizes
  assert height > width and found.tokens > height * width // 4**2
  assert [len(request.sample.images) for request in found.requests] == [3, 3]


def test_data_that_do_not_fit_are_listed(base, kontext, photos, edits, tmp_path, capsys):
  def refused(base, data, *texts):
    assert cli.main(words(base, data, tmp_path / 'run')) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    for text in texts:
      assert text in said, said

  copied = shutil.copytree(photos, tmp_path / 'copied')
  (copied / 'backpack_00.jpg').rename(copied / 'other.jpg')
  refused(base, copied, '1 captions without an image: backpack_00.txt; add the images')
  (copied / 'backpack_00.txt').unlink()
  refused(base, copied, '1 of 4 samples without a caption: other.jpg; write the caption of')
  for file in copied.glob('*.txt'):
    file.unlink()
  refused(base, copied, '4 of 4 samples without a caption: backpack_02.jpg, backpack_03.jpg')
  (copied / 'other.jpg').write_bytes(b'none')
  (copied / 'other.txt').write_text('a backpack')
  refused(base, copied, '1 of 4 samples that cannot be read: other.jpg')
  refused(base, edits, '2 of 2 samples with given images: one.png, two.png; the system flux')
  (edits / 'control1/two.png').unlink()
  refused(kontext, edits, 'controls are missing: control1/two; every folder of controls')
  refused(base, tmp_path / 'nothing', 'no such file or folder')
  index = base / 'model_index.json'
  assert cli.main(words(index.parent / 'vae', photos, tmp_path / 'run')) == 1
  assert 'has no model_index.json' in capsys.readouterr().err
  assert not (tmp_path / 'run').exists()


def test_adapters_of_another_base_and_what_is_no_adapter(run, base, tmp_path):
  models = open_pipeline(str(base)).models
  other = tmp_path / 'flux'
  shutil.copytree(run / 'export/peft', other)
  (other / 'adapter_model.safetensors').unlink()
  from safetensors.numpy import load_file
  from safetensors.numpy import save_file
  tensors = load_file(run / 'export/peft/adapter_model.safetensors')
  save_file({name.replace('transformer_blocks.0', 'transformer_blocks.7'): value
             for name, value in tensors.items()}, other / 'adapter_model.safetensors')
  with pytest.raises(UserError, match='adapters of modules that the model lacks: .*blocks'):
    adapters.opened([str(other)], models)
  with pytest.raises(UserError, match='holds a model and no adapters'):
    adapters.opened([str(base / 'transformer')], models)


def test_too_little_memory_says_which_lever_is_left(base, monkeypatch):
  config = recipe(open_pipeline(str(base)).config, 'images', rank=0, size=32, steps=10)
  config.data.visual_tokens = 64
  monkeypatch.setattr(fit, 'memory_limit', lambda: 10_000.0)
  tried = []
  with pytest.raises(UserError, match='--size = 32: the smallest setting needs .*--lora in'):
    fit.fitted(config, lambda candidate: candidate, tried.append)
  assert len(tried) == 2 and all(line.endswith('does not fit') for line in tried)


def test_settings_come_from_fast_to_small():
  found = [str(setting) for setting in fit.settings(1, adapters=False)]
  assert found == ['4 rows, remat none', '4 rows, remat attention', '4 rows, remat full',
                   '4 rows in 4 pieces, remat none', '4 rows in 4 pieces, remat attention',
                   '4 rows in 4 pieces, remat full']
  assert fit.rows(8) == 8 and fit.rows(3) == 6


def test_a_push_is_refused_offline_before_anything_is_trained(base, photos, tmp_path, capsys):
  assert cli.main([*words(base, photos, tmp_path / 'run'), '--push-to=owner/name']) == 1
  assert 'HF_HUB_OFFLINE is set; unset it, or upload' in capsys.readouterr().err
  with pytest.raises(UserError, match='write owner/name'):
    hub.opened('name', 'export')
