"""FLUX.1 against diffusers' pipelines: whole folders in, the same prompts, references and noise."""

import functools
import math
import pathlib

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers import FluxKontextPipeline
from diffusers import FluxPipeline
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.flux import pipeline_flux_kontext
from PIL import Image

from jaxgen.conversion.pipelines import open_pipeline
from jaxgen.conversion.pretrained import read_external
from jaxgen.data import buckets
from jaxgen.data.images import fit_image
from jaxgen.sampling.generate import shift_of
from jaxgen.sampling.load import Run
from jaxgen.sampling.load import published
from jaxgen.sampling.request import make_request
from jaxgen.sampling.schedules import linear_sigmas
from tests.systems import tiny_pipelines
from tests.systems.drawing import assert_same
from tests.systems.drawing import noise_and_latents
from tests.systems.drawing import one_device
from tests.systems.drawing import run_pipeline

STEPS = 4
PROMPT = 'a red circle above 🐱 a blue square'
KINDS = {'dev': (FluxPipeline, True), 'schnell': (FluxPipeline, False),
         'Kontext': (FluxKontextPipeline, True)}


@pytest.fixture(scope='module')
def folders(tmp_path_factory) -> dict[str, str]:
  """A pipeline of each kind."""
  return {name: tiny_pipelines.save_flux(tmp_path_factory.mktemp(name) / 'pipeline', kind,
                                         distilled=distilled)
          for name, (kind, distilled) in KINDS.items()}


@functools.cache
def opened(folder: str) -> tuple[Run, DiffusionPipeline]:
  """Ours and theirs."""
  pipeline = DiffusionPipeline.from_pretrained(folder)
  pipeline.set_progress_bar_config(disable=True)
  return published(open_pipeline(folder).config, read_external).load(), pipeline


def assert_draws_the_same(run: Run, pipeline: DiffusionPipeline, requests, asked):
  """Final latents and pixels, of requests that are drawn together, each as a pipeline is asked."""
  drawn = run.draw(requests, steps=STEPS, mesh=one_device(run))
  for request, (image,), words in zip(requests, drawn, asked, strict=True):
    noise, latents = noise_and_latents(run, request, STEPS)
    part, = request.sample.targets
    words |= dict(prompt=PROMPT, height=part.size[0], width=part.size[1],
                  num_inference_steps=STEPS, latents=torch.tensor(noise)[None],
                  max_sequence_length=run.config.data.prompt_tokens)
    assert_same((noise, latents, image), run_pipeline(pipeline, **words))


@pytest.mark.parametrize('name', ['dev', pytest.param('schnell', marks=pytest.mark.slow)])
def test_words_to_image(folders, name):
  """Two requests, each with the levels of its size, and with its own guidance."""
  run, pipeline = opened(folders[name])
  requests = [make_request(run.config, PROMPT, size=(24, 32), seed=1),
              make_request(run.config, PROMPT, size=(20, 36), seed=1, number=1, guidance=(
                  9.0 if name == 'dev' else None))]
  assert_draws_the_same(run, pipeline, requests, [dict(guidance_scale=3.5),
                                                  dict(guidance_scale=9.0)])
  defaults = run.config.sampling
  assert (defaults.steps, defaults.guidance) == ((28, 3.5) if name == 'dev' else (4, 1.0))
  assert bool(defaults.size_shift) == (name == 'dev')


@pytest.fixture
def small_sizes(monkeypatch) -> tuple:
  """Both ours and theirs have these in place of Kontext's sizes, which are of a megapixel."""
  sizes = ((24, 48), (28, 40), (32, 32), (40, 28), (48, 24))
  monkeypatch.setattr(pipeline_flux_kontext, 'PREFERRED_KONTEXT_RESOLUTIONS', sizes)
  monkeypatch.setattr(buckets, 'KONTEXT_BUCKETS', sizes)
  monkeypatch.setitem(buckets.NAMED, 'kontext', sizes)
  return sizes


@pytest.mark.parametrize('role', ['reference', 'source'])
def test_kontext_edits_an_image(folders, small_sizes, role):
  """Its reference is stretched to the nearest size; a source gives the output its size, too."""
  run, pipeline = opened(folders['Kontext'])
  image = np.random.default_rng(0).integers(0, 256, (30, 51, 3), np.uint8)
  size = {'size': (28, 40)} if role == 'reference' else {}
  request = make_request(run.config, PROMPT, seed=2, **{role: [image]}, **size)
  height, width = request.sample.targets[0].size
  assert (height, width) == (28, 40)
  assert_draws_the_same(run, pipeline, [request], [dict(
      image=Image.fromarray(image), guidance_scale=3.5, max_area=height * width)])


def test_kontext_without_an_image(folders):
  run, pipeline = opened(folders['Kontext'])
  request = make_request(run.config, PROMPT, size=(24, 32), seed=2)
  assert_draws_the_same(run, pipeline, [request], [dict(guidance_scale=3.5, max_area=24 * 32)])


def test_kontext_prefers_its_own_sizes():
  preferred = pipeline_flux_kontext.PREFERRED_KONTEXT_RESOLUTIONS
  assert set(preferred) == set(buckets.KONTEXT_BUCKETS)
  for ratio in np.exp(np.linspace(-1.5, 1.5, 997)):
    height = 1000
    width = round(height * ratio)
    _, *size = min((abs(width / height - w / h), w, h) for w, h in preferred)
    assert buckets.best_bucket((height, width), buckets.bucket_set('kontext')) == tuple(size[::-1])


def test_a_stretched_image_is_that_of_diffusers():
  image = np.random.default_rng(0).integers(0, 256, (37, 90, 3), np.uint8)
  theirs = VaeImageProcessor().resize(Image.fromarray(image), 48, 64)
  np.testing.assert_array_equal(fit_image(image, (48, 64), 'stretch'), theirs)


@pytest.mark.parametrize('name', ['dev', 'schnell'])
def test_tokens_are_those_of_the_pipeline(folders, name):
  run, pipeline = opened(folders[name])
  assert not (pathlib.Path(folders[name]) / 'tokenizer/tokenizer.json').exists()
  lengths = {'text_encoder': 512 if name == 'dev' else 256, 'text_encoder_2': 77}
  theirs = {'text_encoder': pipeline.tokenizer_2, 'text_encoder_2': pipeline.tokenizer}
  for group, length in lengths.items():
    for kind, prompt in tiny_pipelines.PROMPTS.items():
      found = run.maker.towers[group].tokens(prompt)
      expected = theirs[group](prompt, padding='max_length', max_length=length, truncation=True)
      assert found.tokens.tolist() == expected.input_ids, (group, kind)
      assert found.shown.all() or group == 'text_encoder_2'  # T5 reads, and shows, its padding
  kinds = [len(set(run.maker.towers['text_encoder_2'].tokens(prompt).tokens.tolist()))
           for prompt in tiny_pipelines.PROMPTS.values()]
  assert min(kinds[:3]) > 8  # no text is all unknown


def test_levels_are_those_of_the_scheduler(folders):
  run, pipeline = opened(folders['dev'])
  for tokens in (12, 256, 1500, 4096):
    mu = math.log(shift_of(make_request(run.config, 'x', size=(4, 4 * tokens)), run.config, 4))
    assert mu == pytest.approx(pipeline_flux_kontext.calculate_shift(tokens), abs=1e-6)
    for terminal in (None, 0.02):
      scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config,
                                                       shift_terminal=terminal)
      scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 7, 7), mu=mu)
      np.testing.assert_allclose(linear_sigmas(7, math.exp(mu), terminal or 0.0),
                                 scheduler.sigmas.numpy(), atol=1e-6)
