"""A published pipeline through the command line: drawn from, fine-tuned, and handed back."""

import filecmp
import json
import pathlib

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from jaxgen import cli
from jaxgen.sampling.load import load_run
from jaxgen.sampling.request import make_request
from tests.models import float64
from tests.systems import tiny_pipelines
from tests.systems.drawing import noise_and_latents
from tests.systems.drawing import one_device

PROMPT = 'a red circle'
STEPS = 2
SHORT = '--config.data.prompt_tokens=32'


def jaxgen(*words):
  assert cli.main([str(word) for word in words]) == 0


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> pathlib.Path:
  return pathlib.Path(tiny_pipelines.save_flux(tmp_path_factory.mktemp('published') / 'flux'))


@pytest.fixture(scope='module')
def run(folder, tmp_path_factory) -> pathlib.Path:
  """Workdir of two steps of adapters on two captioned images, begun by one line."""
  root = tmp_path_factory.mktemp('fine_tuned')
  (root / 'images').mkdir()
  rng = np.random.default_rng(0)
  for name in ('one', 'two'):
    Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(root / f'images/{name}.png')
    (root / f'images/{name}.txt').write_text(f'a picture of number {name}')
  jaxgen('train', f'--config=configs/flux/lora.py:{folder}', f'--workdir={root / "run"}',
         f'--config.data.sources.images.path={root / "images"}',
         '--config.data.buckets=square:32', '--config.data.visual_tokens=64', SHORT,
         '--config.optimizer.learning_rate=0.1', '--config.train.steps=2',
         '--config.train.rows=8')
  return root / 'run'


def test_draws_from_a_folder_without_config_or_training(folder, tmp_path, capsys):
  jaxgen('sample', f'--base={folder}', f'--out={tmp_path / "out"}', '--size=24x32', SHORT,
         f'--steps={STEPS}', f'--prompt={PROMPT}')
  said = capsys.readouterr().err
  for words in ('FluxPipeline, system flux', 'text_encoder_2: t5, text_encoder, ',
                'text_encoder: clip_text_model, text_encoder_2, ', 'vae: AutoencoderKL, autoencoder',
                'transformer: FluxTransformer2DModel, denoiser, 0.1 M parameters in float32'):
    assert words in said, said
  assert Image.open(tmp_path / 'out/0000.png').size == (32, 24)


def exported(run: pathlib.Path, out: pathlib.Path, *words) -> pathlib.Path:
  jaxgen('convert', 'export', f'--workdir={run}', f'--out={out}', '--pipeline', *words)
  return out


def test_what_has_not_trained_is_copied_or_linked(folder, run, tmp_path, capsys):
  for name, words in (('copy', []), ('link', ['--unchanged=link'])):
    out = exported(run, tmp_path / name, *words)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 7
    assert any(line.startswith(f'transformer: written from {run}, ') for line in said), said
    for component in ('vae', 'text_encoder', 'text_encoder_2'):
      file, = (out / component).glob('*.safetensors')
      assert file.is_symlink() == (name == 'link')
      assert filecmp.cmp(file, folder / component / file.name, shallow=False)
    assert filecmp.cmp(out / 'model_index.json', folder / 'model_index.json', shallow=False)


def test_diffusers_draws_the_same_from_what_comes_back(folder, run, tmp_path):
  ours = load_run(str(run))
  request = make_request(ours.config, PROMPT, size=(24, 32), seed=3)
  noise, latents = noise_and_latents(ours, request, STEPS)
  (image,), = ours.draw([request], steps=STEPS, mesh=one_device(ours))
  asked = dict(prompt=PROMPT, height=24, width=32, num_inference_steps=STEPS, guidance_scale=3.5,
               latents=torch.tensor(noise)[None], max_sequence_length=32)
  found = {}
  for name, place in (('before', folder), ('after', exported(run, tmp_path / 'mine'))):
    pipeline = DiffusionPipeline.from_pretrained(str(place))
    pipeline.set_progress_bar_config(disable=True)
    with float64.our_time_frequencies():
      found[name] = pipeline(**asked, output_type='latent').images.numpy()[0]
      picture, = pipeline(**asked).images
  np.testing.assert_allclose(latents, found['after'], atol=1e-3)
  apart = np.abs(image.astype(int) - np.asarray(picture).astype(int))
  assert np.mean(apart <= 1) > 0.999
  assert np.abs(latents - found['before']).max() > 0.02  # it has trained


def test_a_folder_of_weights_needs_its_pipeline_named(folder, run, tmp_path, capsys):
  """A run that began with another run names no pipeline itself."""
  jaxgen('convert', 'import', f'--path={folder}', f'--out={tmp_path / "weights"}')
  config = json.loads((tmp_path / 'weights/config.json').read_text())
  (tmp_path / 'weights/config.json').write_text(json.dumps(
      config | {'system': 'flux', 'init_from': {}}))
  words = ['convert', 'export', f'--workdir={tmp_path / "weights"}', f'--out={tmp_path / "out"}',
           '--pipeline']
  assert cli.main(words) == 1
  assert 'names no component of a pipeline; name the pipeline by --base' in capsys.readouterr().err
  jaxgen(*words, f'--base={folder}')
  assert capsys.readouterr().out.count('written from') == 4
  theirs, ours = (DiffusionPipeline.from_pretrained(str(place)).transformer.state_dict()
                  for place in (folder, tmp_path / 'out'))
  assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
