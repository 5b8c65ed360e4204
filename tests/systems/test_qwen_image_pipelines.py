"""Qwen-Image and its editors against diffusers' pipelines: the same words, images and noise.

Diffusers' areas are divided by ``SHRUNK``: 64 x 64 pixels stand for 1024 x 1024.
"""

import collections
import copy
import json
import pathlib

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers import QwenImageEditPipeline
from diffusers import QwenImageEditPlusPipeline
from diffusers import QwenImagePipeline
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus
from PIL import Image

from jaxgen.conversion.pipelines import open_pipeline
from jaxgen.conversion.pretrained import read_external
from jaxgen.sampling.load import Run
from jaxgen.sampling.load import published
from jaxgen.sampling.request import make_request
from tests.systems import tiny_pipelines
from tests.systems.drawing import assert_goes_back
from tests.systems.drawing import assert_same
from tests.systems.drawing import drawn_together
from tests.systems.drawing import one_device
from tests.systems.drawing import run_pipeline

SHRUNK, STEPS, SCALE = 256, 3, 4.0
NEGATIVE = '模糊 🙂'
WORDS = list(tiny_pipelines.PROMPTS.values())
KINDS = {'image': QwenImagePipeline, 'edit': QwenImageEditPipeline,
         'edit plus': QwenImageEditPlusPipeline}


@pytest.fixture(scope='module')
def folders(tmp_path_factory) -> dict[str, str]:
  """A pipeline of each kind, with the same models."""
  return {name: tiny_pipelines.save_qwen_image(tmp_path_factory.mktemp(name) / 'pipeline', kind)
          for name, kind in KINDS.items()}


@pytest.fixture
def areas(monkeypatch):
  """Diffusers' sizes of given images, ``SHRUNK`` times smaller."""
  for module in (pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus):
    full = module.calculate_dimensions
    monkeypatch.setattr(module, 'calculate_dimensions',
                        lambda area, ratio, full=full: full(area / SHRUNK, ratio))


def opened(folder: str, name: str) -> tuple[Run, DiffusionPipeline]:
  """Ours, at the areas of the test, and theirs."""
  config = copy.deepcopy(open_pipeline(folder).config)
  with config.unlocked():
    config.sampling.negative_prompt = NEGATIVE
    config.data.update(vision_area=config.data.vision_area // SHRUNK, prompt_tokens=1200)
    if name != 'image':
      config.data.update(reference_pixels=(config.data.reference_pixels[0] // SHRUNK,),
                         vision_pixels=(196, 100 * 196))
  pipeline = QwenImagePipeline.from_pretrained(folder)
  if name != 'image':  # by hand: diffusers knows no processor without videos
    processor = tiny_pipelines.StillProcessor.from_pretrained(pathlib.Path(folder) / 'processor')
    pipeline = KINDS[name](**pipeline.components, processor=processor)
  pipeline.set_progress_bar_config(disable=True)
  return published(config, read_external).load(), pipeline


def assert_draws_the_same(run: Run, pipeline: DiffusionPipeline, cases) -> None:
  """Tokens, final latents and pixels of requests; ``cases``: (text, images, size) of each."""
  requests = [make_request(run.config, text, source=images[:1], reference=images[1:], size=size,
                           seed=3, number=number, guidance=SCALE)
              for number, (text, images, size) in enumerate(cases)]
  batch, drawn = drawn_together(run, requests, STEPS)
  read, pictures = [], run.draw(requests, steps=STEPS, mesh=one_device(run))

  def tell(module, args, given):
    """Keeps the tokens, and says which of them are images: diffusers 0.42 does not, and
    transformers 5 then gives them the positions of words (huggingface/diffusers#14194)."""
    read.append(given['input_ids'][0].tolist())
    return args, given | dict(
        mm_token_type_ids=(given['input_ids'] == module.config.image_token_id).int())

  hook = pipeline.text_encoder.register_forward_pre_hook(tell, with_kwargs=True)
  for (text, images, size), request, (noise, latents), (picture,) in zip(
      cases, requests, drawn, pictures, strict=True):
    shown = [Image.fromarray(image) for image in images]
    asked = dict(prompt=text, negative_prompt=NEGATIVE, true_cfg_scale=SCALE,
                 num_inference_steps=STEPS, latents=torch.tensor(noise)[None],
                 **({'height': size[0], 'width': size[1]} if size else {}),
                 **({'image': shown if len(shown) > 1 else shown[0]} if shown else {}))
    assert_same((noise, latents, picture), run_pipeline(pipeline, **asked))
  hook.remove()
  prompt = batch.branches.batch.prompt
  ours = collections.Counter(
      tuple(prompt.tokens[row][prompt.segments[row] == segment])
      for row in range(len(prompt.tokens)) for segment in set(prompt.segments[row]) - {0})
  # The pipeline cuts what the denoiser is told of a prompt without images; we cut the prompt.
  most = 34 + 512 if not cases[0][1] else None
  assert set(ours) == {tuple(tokens[:most]) for tokens in read}


def picture(seed: int, *size: int) -> np.ndarray:
  """uint8[H, W, 3] of large soft patches."""
  rng = np.random.default_rng(seed)
  patches = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
  return np.asarray(patches.resize(size[::-1], Image.Resampling.BICUBIC))


def test_words_to_image(folders):
  """Words of every kind, and more of them than the denoiser is told."""
  run, pipeline = opened(folders['image'], 'image')
  assert (run.config.sampling.steps, run.config.sampling.guidance) == (50, 4.0)
  assert run.config.sampling.size_shift == (256, 0.5, 8192, 0.9)
  cases = [(text, [], (64, 64)) for text in WORDS if text]
  assert_draws_the_same(run, pipeline, cases)


def test_editing(folders, areas):
  """The image is stretched to 96 x 32 for the autoencoder, and from there to 98 x 28."""
  cases = [(WORDS[1], [picture(0, 30, 60)], None), (WORDS[2], [picture(1, 90, 200)], None)]
  assert_draws_the_same(*opened(folders['edit'], 'edit'), cases)


def test_editing_with_several_images(folders, areas):
  """Three pictures of other shapes, and one; the tower sees smaller ones than the autoencoder."""
  cases = [(WORDS[0], [picture(0, 30, 60), picture(1, 50, 40), picture(2, 64, 64)], (48, 64)),
           (WORDS[2], [picture(3, 80, 70)], (48, 64))]
  assert_draws_the_same(*opened(folders['edit plus'], 'edit plus'), cases)


def test_a_whole_folder_goes_back(folders, tmp_path):
  """That of an editor; its autoencoder shares the tensors of Wan's, and keeps its class."""
  run, _ = opened(folders['edit plus'], 'edit plus')
  assert_goes_back(run, folders['edit plus'], tmp_path, QwenImagePipeline)
  assert (tmp_path / 'out' / 'processor' / 'tokenizer.json').exists()
  config = json.loads((tmp_path / 'out' / 'vae' / 'config.json').read_text())
  assert config['_class_name'] == 'AutoencoderKLQwenImage'
