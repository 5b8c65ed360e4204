"""Z-Image against diffusers' pipeline: the same words and noise, to tokens, latents and pixels."""

import copy
import pathlib

import numpy as np
import pytest
import torch
from diffusers import ZImagePipeline

from jaxgen.conversion.pipelines import open_pipeline
from jaxgen.conversion.pretrained import read_external
from jaxgen.core.errors import UserError
from jaxgen.models.autoencoders.patchify import patchify
from jaxgen.models.autoencoders.patchify import unpatchify
from jaxgen.sampling.load import Run
from jaxgen.sampling.load import published
from jaxgen.sampling.request import make_request
from jaxgen.systems.registry import make_system
from tests.systems import tiny_pipelines
from tests.systems.drawing import assert_goes_back
from tests.systems.drawing import assert_same
from tests.systems.drawing import drawn_together
from tests.systems.drawing import one_device
from tests.systems.drawing import run_pipeline

STEPS, GAIN = 3, 3.0  # of c + g (c - u), which is our scale less 1
LENGTH = 160  # tokens of a prompt at the most, in place of 512
NEGATIVE = '模糊 🙂'
SIZE, GRID = (24, 28), (6, 7)  # 42 tokens, which 22 learned pads follow


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> str:
  return tiny_pipelines.save_z_image(tmp_path_factory.mktemp('z_image') / 'pipeline')


@pytest.fixture(scope='module')
def run(folder) -> Run:
  config = copy.deepcopy(open_pipeline(folder).config)
  with config.unlocked():
    config.data.prompt_tokens = LENGTH
    config.sampling.update(negative_prompt=NEGATIVE, renormalize='image')
  return published(config, read_external).load()


@pytest.fixture(scope='module')
def pipeline(folder) -> ZImagePipeline:
  made = ZImagePipeline.from_pretrained(folder)
  made.set_progress_bar_config(disable=True)
  return made


def packed(latents: np.ndarray) -> np.ndarray:
  """Their f32[C, H, W] as our tokens f32[h w, 4 C]."""
  return np.asarray(patchify(latents[None].transpose(0, 2, 3, 1), 2))[0]


def test_words_to_image(run, pipeline):
  """Words of every kind, and more of them than the tower reads."""
  texts = list(tiny_pipelines.PROMPTS.values())
  requests = [make_request(run.config, text, size=SIZE, seed=3, number=number, guidance=GAIN + 1)
              for number, text in enumerate(texts)]
  batch, drawn = drawn_together(run, requests, STEPS)
  visual = batch.branches.batch.visual
  assert ((visual.segments > 0) & (visual.images == 0)).sum() == 22 * 2 * len(texts)
  pictures = run.draw(requests, steps=STEPS, mesh=one_device(run))
  for text, (noise, latents), (picture,) in zip(texts, drawn, pictures, strict=True):
    start = torch.tensor(np.asarray(unpatchify(noise[None], GRID, 2))).permute(0, 3, 1, 2)
    found, pixels = run_pipeline(
        pipeline, prompt=text, negative_prompt=NEGATIVE, height=SIZE[0], width=SIZE[1],
        num_inference_steps=STEPS, guidance_scale=GAIN, cfg_normalization=True, latents=start,
        max_sequence_length=LENGTH)
    assert_same((noise, latents, picture), (packed(found), pixels))


def test_tokens_and_pads(run, pipeline):
  """Those of the chat template; behind them pads up to a multiple of 32, which are not read."""
  tower, counts = run.maker.towers['text_encoder'], []
  for text in tiny_pipelines.PROMPTS.values():
    chat = pipeline.tokenizer.apply_chat_template(
        [{'role': 'user', 'content': text}], tokenize=False, add_generation_prompt=True,
        enable_thinking=True)
    expected = pipeline.tokenizer(chat, padding='max_length', max_length=LENGTH, truncation=True)
    found = tower.tokens(text)
    assert found.tokens.tolist() == expected.input_ids
    assert found.mask.tolist() == [bool(own) for own in expected.attention_mask]
    count, shown = int(found.mask.sum()), int(found.shown.sum())
    assert shown == -(-count // 32) * 32 and found.shown[:shown].all()
    counts.append(count)
  assert max(counts) == LENGTH > min(counts)


def test_a_whole_folder_goes_back(run, folder, tmp_path):
  assert_goes_back(run, folder, tmp_path, ZImagePipeline)


def test_settings_are_those_of_the_cards(folder, tmp_path):
  config = open_pipeline(folder).config
  assert (config.sampling.steps, config.sampling.guidance) == (50, 5.0)
  assert (config.sampling.timestep_shift, config.data.prompt_tokens) == (3.0, 512)
  turbo = tmp_path / 'Z-Image-Turbo'
  turbo.symlink_to(pathlib.Path(folder))
  config = open_pipeline(str(turbo)).config
  assert (config.sampling.steps, config.sampling.guidance) == (8, 1.0)


def test_a_length_that_pads_do_not_fill_is_refused(run):
  config = copy.deepcopy(run.config)
  with config.unlocked():
    config.data.prompt_tokens = 100
  with pytest.raises(UserError, match='data.prompt_tokens = 100: must be a multiple of 32'):
    make_system(config)
