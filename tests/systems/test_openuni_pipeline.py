"""OpenUni's parts against transformers' InternVL and diffusers' SanaPipeline."""

import pathlib

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from diffusers import AutoencoderDC
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers import SanaPipeline
from diffusers import SanaTransformer2DModel
from ml_collections import ConfigDict

from configs.iomm import openuni_l_mix
from jaxgen.checkpoints.weights import save_weights
from jaxgen.config import to_json
from jaxgen.conversion.commands import export
from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.models.registry import section
from jaxgen.sampling.load import Run
from jaxgen.sampling.load import load_run
from jaxgen.sampling.request import make_request
from jaxgen.systems.registry import make_system
from tests.data.test_templates import INTERNVL
from tests.data.test_templates import NAMES
from tests.data.test_templates import make_tokenizer
from tests.models.test_connectors import OpenUniConnector
from tests.systems.drawing import assert_same
from tests.systems.drawing import drawn_together
from tests.systems.drawing import one_device
from tests.systems.drawing import run_pipeline

STEPS, SCALE, SHIFT, SIZE = 3, 4.5, 3.0, (32, 64)
TEXTS = ('a red circle', '红色的猫 🐱')


def tiny_config(tokenizer: str) -> ConfigDict:
  config = openuni_l_mix.get_config()
  for group, made in dict(
      mllm=section('internvl', image_token_id=5,
                   vision=dict(image_size=8, patch_size=4, width=16, layers=1, heads=2, mlp=32),
                   text=dict(vocab=512, width=16, layers=2, heads=2, kv_heads=1, mlp=32)),
      bridge=section('learnable_queries', width=16, queries=4),
      # The sizes of the torch class.
      connector=section('encoder_connector', width=16, layers=3, heads=2, mlp=24, out_width=8),
      denoiser=section('sana', in_channels=4, cond_dim=8, width=32, heads=4, cross_heads=2,
                       layers=2),
      autoencoder=section('dc_ae', channels=4, block_channels=(8, 8, 16), encoder_layers=(1, 1, 1),
                          decoder_layers=(1, 1, 1), attention_levels=1, head_dim=8)).items():
    config.model[group], config.init_from[group] = ConfigDict(made), ''
  config.model.update(compute_dtype='float32', frozen_dtype='float32')
  config.data.update(tokenizer=tokenizer, image_size=64, vision_size=8, prompt_tokens=200)
  config.sampling.update(steps=STEPS, guidance=SCALE, timestep_shift=SHIFT)
  return config


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """``(workdir, folder of its export, transformers' tokenizer)``."""
  folder, rng = tmp_path_factory.mktemp('openuni'), np.random.default_rng(0)
  _, tokenizer = make_tokenizer(folder / 'tokenizer', NAMES['internvl'], INTERNVL)
  config = tiny_config(str(folder / 'tokenizer'))
  params = trees.map_named(
      lambda path, leaf: np.float32(rng.normal(1.0 if path.endswith('scale') else 0.0, 0.13,
                                               leaf.shape)), make_system(config).shapes())
  save_weights(str(folder / 'run'), params, to_json(config))
  export(str(folder / 'run'), str(folder / 'out'))
  return folder / 'run', folder / 'out', tokenizer


@pytest.fixture(scope='module')
def run(saved) -> Run:
  return load_run(str(saved[0]))


class Reader:
  """What SANA is told, by the torch classes: the queries' states behind a chat turn, connected."""

  def __init__(self, folder: pathlib.Path, tokenizer):
    self._tokenizer = tokenizer
    self._model = transformers.InternVLForConditionalGeneration.from_pretrained(
        folder / 'mllm', dtype=torch.float32).eval()
    bridge = safetensors.torch.load_file(folder / 'adapter' / 'model.safetensors')
    self._queries = bridge['meta_queries']
    self._connector = OpenUniConnector()
    self._connector.load_state_dict(
        safetensors.torch.load_file(folder / 'connector' / 'model.safetensors'))

  @torch.no_grad()
  def __call__(self, text: str) -> dict[str, torch.Tensor]:
    turn = self._tokenizer.apply_chat_template(
        [{'role': 'user', 'content': text}], add_generation_prompt=True, tokenize=False)
    ids = self._tokenizer(f'{turn}<img>', add_special_tokens=False, return_tensors='pt').input_ids
    words = self._model.get_input_embeddings()(ids)
    states = self._model.model.language_model(
        inputs_embeds=torch.cat([words, self._queries[None]], dim=1)).last_hidden_state
    told = self._connector(states[:, -len(self._queries):])
    return dict(prompt_embeds=told, prompt_attention_mask=torch.ones(told.shape[:2]))


def test_words_to_image(run, saved):
  _, folder, tokenizer = saved
  requests = [make_request(run.config, text, size=SIZE, seed=1, number=number)
              for number, text in enumerate(TEXTS)]
  _, drawn = drawn_together(run, requests, STEPS)
  pictures = run.draw(requests, steps=STEPS, mesh=one_device(run))
  pipeline = SanaPipeline(
      tokenizer=None, text_encoder=None,
      vae=AutoencoderDC.from_pretrained(folder / 'autoencoder'),
      transformer=SanaTransformer2DModel.from_pretrained(folder / 'denoiser'),
      scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT))
  pipeline.set_progress_bar_config(disable=True)
  reader, grid = Reader(folder, tokenizer), (SIZE[0] // 4, SIZE[1] // 4)
  nothing = {f'negative_{name}': value for name, value in reader('Generate an image.').items()}
  for text, (noise, latents), (picture,) in zip(TEXTS, drawn, pictures, strict=True):
    start = torch.tensor(noise.reshape(1, *grid, -1)).permute(0, 3, 1, 2)
    found, pixels = run_pipeline(
        pipeline, negative_prompt=None, **reader(f'Generate an image: {text}'), **nothing,
        height=SIZE[0], width=SIZE[1], num_inference_steps=STEPS, guidance_scale=SCALE,
        sigmas=np.linspace(1, 1 / STEPS, STEPS).tolist(), latents=start,
        use_resolution_binning=False)
    assert_same((noise, latents, picture),
                (found.transpose(1, 2, 0).reshape(noise.shape), pixels))


def test_what_the_connector_does_not_read_is_not_shown(run):
  config = run.config.copy_and_resolve_references()
  with config.unlocked():
    config.data.shown = 'all'
  with pytest.raises(UserError, match="data.shown = 'all': must be queries"):
    make_system(config)
