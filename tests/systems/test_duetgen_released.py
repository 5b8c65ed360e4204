"""DuetGen's exported models, run by transformers and by diffusers' pipeline of Cosmos-Predict2.5.

The pipeline denoises a video whose first frames are given: here they are the earlier images of a
dialogue, and what the transformer is told are transformers' hidden states of that dialogue.
"""

import copy

import jax
import numpy as np
import pytest
import torch
import transformers
from diffusers import AutoencoderKLWan
from diffusers import Cosmos2_5_PredictBasePipeline
from diffusers import CosmosTransformer3DModel
from diffusers import UniPCMultistepScheduler
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from configs.duetgen import shapes
from jaxgen.checkpoints.weights import save_weights
from jaxgen.config import to_json
from jaxgen.conversion.commands import export
from jaxgen.conversion.tables import cosmos
from jaxgen.core import trees
from jaxgen.data import tasks
from jaxgen.data.examples import ExampleMaker
from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample
from jaxgen.models.autoencoders.patchify import unpatchify
from jaxgen.models.registry import section
from jaxgen.sampling.batching import make_batch
from jaxgen.sampling.generate import solve
from jaxgen.sampling.generate import tokens_of
from jaxgen.sampling.request import as_request
from jaxgen.sampling.request import request_of
from jaxgen.sampling.stepping import noise_of
from jaxgen.sharding import partition
from jaxgen.sharding.mesh import make_mesh
from jaxgen.systems.registry import make_system
from tests.data.test_templates import messages_of
from tests.models import parity

PATCH, MERGE, STEPS, SCALE = 4, 2, 6, 3.0
BOUNDS = dict(min_pixels=64, max_pixels=2048)
SIZE = (32, 48)  # (height, width) of all images: 2 x 3 tokens of 16 pixels
FIRST, SECOND, THIRD = (np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)
                        for seed in range(3))
DIALOGUE = Sample('dialogue', (
    Part('source', image=FIRST), Part('user', text='make it blue, then green'),
    Part('assistant', text='It is blue:', loss=True), Part('target', image=SECOND, loss=True),
    Part('assistant', text='and now green:', loss=True), Part('target', image=THIRD, loss=True)))


@pytest.fixture(scope='module')
def config(chat):
  folder, tokenizer, _ = chat
  made = shapes.get_config('align')
  made.model.mllm.vision.update(width=32, heads=2, mlp=48, patch_size=PATCH, window=16)
  made.model.mllm.text.update(width=32, layers=3, heads=2, kv_heads=1, mlp=48,
                              rope_sections=(2, 3, 3), vocab=tokenizer.vocab_size)
  made.model.mllm.update(image_token_id=tokenizer.image, vision_start_id=tokenizer.image_start,
                         vision_end_id=tokenizer.image_end, video_token_id=0)
  made.model.connector.update(width=32, layers=3, out_width=24)
  made.model.denoiser.update(in_channels=16, cond_dim=24, text_dim=24, width=32, heads=2, layers=2,
                             modulation_rank=6, rope_scale=(1.0, 3.0, 3.0))
  made.model.autoencoder = section('wan_vae', block_channels=(4, 8, 16, 16),
                                   mean=(0.1, -0.2, 0.3, 0.4), std=(1.5, 0.7, 2.0, 1.1))
  made.data.update(tokenizer=folder, dialect='qwen_chat', references='native', prompt_tokens=400,
                   vision_pixels=(BOUNDS['min_pixels'], BOUNDS['max_pixels']))
  made.sampling.update(solver='unipc', guidance=SCALE)
  return made


@pytest.fixture(scope='module')
def params(config):
  rng = np.random.default_rng(0)
  return trees.map_named(
      lambda _, leaf: np.float32(rng.normal(0.0 if leaf.ndim > 1 else 0.5, 0.2, leaf.shape)),
      make_system(config).shapes())


@pytest.fixture(scope='module')
def exported(config, params, tmp_path_factory):
  folder = tmp_path_factory.mktemp('released')
  save_weights(str(folder / 'run'), params, to_json(config))
  assert set(export(str(folder / 'run'), str(folder / 'out'))) == {
      'mllm', 'connector', 'denoiser', 'autoencoder'}
  return folder / 'out'


def branches(config, dialogue):
  """The request for the last image of a dialogue: as it is, and without its last text."""
  cut = tasks.worded(dialogue, 'dialogue', config.data)
  request = request_of(config, as_request(cut), seed=3, number=0)
  return request, [sample for _, sample in make_system(config).branches(
      request.sample, request.scales)]


class Reader:
  """Qwen2.5-VL of transformers with its chat template and image processor."""

  def __init__(self, folder, tokenizer):
    self.model = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(
        str(folder / 'mllm'), dtype=torch.float32).eval()
    self._tokenizer = tokenizer
    self._processor = Qwen2VLImageProcessorPil(patch_size=PATCH, merge_size=MERGE, **BOUNDS)

  def states(self, parts):
    """``parity.Theirs`` of every layer's states [layers + 1, n, D] at what stands before <BOV>."""
    images = [part.image for part in parts if part.is_image]
    pictures = self._processor(images, return_tensors='np')
    grids = pictures['image_grid_thw']
    ids = np.array([self._ids(parts, grids)])
    kinds = (ids == self._tokenizer.convert_tokens_to_ids('<|image_pad|>')).astype(int)

    def run(model, ids, patches, kinds):
      return torch.stack(model(input_ids=ids, pixel_values=patches, mm_token_type_ids=kinds,
                               image_grid_thw=torch.tensor(grids),
                               output_hidden_states=True).hidden_states)[:, 0]

    return parity.theirs(self.model, run, ids, pictures['pixel_values'], kinds)

  def _ids(self, parts, grids):
    """The last turn is the assistant's, and open."""
    messages = messages_of(parts)
    answers = messages[-1]['role'] == 'assistant'
    text = self._tokenizer.apply_chat_template(messages, tokenize=False,
                                               add_generation_prompt=not answers)
    text = text.removesuffix('<|im_end|>\n') if answers else text
    before, *rest = text.split('<|image_pad|>')
    filled = before + ''.join('<|image_pad|>' * (rows * columns // MERGE**2) + more
                              for (_, rows, columns), more in zip(grids, rest, strict=True))
    return self._tokenizer(filled, add_special_tokens=False)['input_ids']


@pytest.fixture(scope='module')
def reader(exported, chat):
  return Reader(exported, chat[2])


def embeds(states):
  """What the pipeline is told, as it makes it of hidden states f64[layers + 1, n, D]."""
  normed = [(layer - layer.mean(-1, keepdims=True)) / (layer.std(-1, keepdims=True, ddof=1) + 1e-8)
            for layer in states[1:]]
  return torch.tensor(np.concatenate(normed, axis=-1)[None], dtype=torch.float32)


def test_states_of_a_dialogue_with_images_equal_transformers(config, params, reader):
  """Every layer's, before <BOV>, of the dialogue and of guidance's negative (F05, L110)."""
  system = make_system(config)
  request, samples = branches(config, DIALOGUE)
  batch = make_batch([request], system, ExampleMaker.of(config, system.layout), 1, 1).branches.batch
  states = np.asarray(jax.jit(lambda params: system.prompt_states(
      params, batch, all_layers=True))(params))
  shown = np.asarray(batch.prompt.shown)
  assert len(samples) == 2
  for row, sample in enumerate(samples):
    expected = reader.states(sample.parts[:-1])
    assert expected.exact.shape[:2] == (4, shown[row].sum())
    parity.assert_near(states[:, row, shown[row]], expected, where=f'branch {row}')


class Permissive(torch.nn.Module):
  """Stands where NVIDIA's guard is, which is not installed; it looks at words and pixels alone."""

  device, dtype = torch.device('cpu'), torch.float32


class ImageByImage(Cosmos2_5_PredictBasePipeline):
  """The pipeline, with each given image encoded alone, as a first frame (A24)."""

  def prepare_latents(self, video, **options):
    latents, given, mask, indicator = super().prepare_latents(video, **options)
    for index in range(int(indicator.sum())):
      one = dict(options, num_frames_in=1, num_frames_out=1, latents=latents[:, :, :1])
      given[:, :, index:index + 1] = super().prepare_latents(
          video[:, :, index:index + 1], **one)[1]
    return latents, given, mask, indicator


def pipeline(kind, exported, config, params):
  """Of the exported models; the connector goes into the transformer, as in the release."""
  theirs = cosmos.FAMILY.write_config(dict(
      config.model.denoiser.to_dict(), cond_projection=True,
      cond_dim=config.model.connector.width * config.model.connector.layers))
  transformer = parity.load(CosmosTransformer3DModel.from_config(theirs), cosmos.RULES,
                            params['denoiser'] | params['connector'])
  made = kind(
      text_encoder=None, tokenizer=None, transformer=transformer.eval(),
      vae=AutoencoderKLWan.from_pretrained(exported / 'autoencoder'),
      scheduler=UniPCMultistepScheduler(prediction_type='flow_prediction', use_flow_sigmas=True,
                                        flow_shift=5.0, solver_order=2),
      safety_checker=Permissive())
  made.set_progress_bar_config(disable=True)
  return made


def video_of(images):
  """f32[1, 3, F, H, W] of as many frames as the pipeline reads for so many latent ones: the images,
  then the last one again and again."""
  frames = [images[min(index, len(images) - 1)] for index in range(4 * len(images) - 3)]
  return torch.tensor(np.stack(frames) / np.float32(127.5) - 1).permute(3, 0, 1, 2)[None]


@pytest.mark.parametrize('kind, dialogue, clean_time', [
    (Cosmos2_5_PredictBasePipeline, DIALOGUE.parts[:4], 1e-4),
    (ImageByImage, DIALOGUE.parts, -1.0)], ids=['one image before', 'two images before'])
def test_guided_denoising_equals_the_pipeline(kind, dialogue, clean_time, config, params, exported,
                                              reader):
  """UniPC, guidance c + g (c - u), condition frames at their time or at that of the target."""
  config = copy.deepcopy(config)
  config.model.denoiser.clean_time = clean_time
  system, mesh = make_system(config), make_mesh(config.mesh, jax.devices()[:1])
  request, samples = branches(config, Sample('dialogue', tuple(dialogue)))
  batch = make_batch([request], system, ExampleMaker.of(config, system.layout), 1, 1)
  theirs = pipeline(kind, exported, config, params)
  theirs.scheduler.set_timesteps(STEPS)
  sigmas = theirs.scheduler.sigmas.numpy()
  with partition.scope(mesh):
    latents = solve(system, params, batch, sigmas, 'unipc', mesh, ())
  drawn, = batch.drawn
  begin, ours = (  # [C, H, W]
      np.moveaxis(np.asarray(unpatchify(tokens_of(found, drawn)[None], drawn.grid, 2))[0], -1, 0)
      for found in (noise_of(batch.keys, latents.shape[-1]), latents))
  images = [part.image for part in samples[0].parts if part.is_image and not part.is_target]
  count = len(images)
  noise = torch.zeros(1, begin.shape[0], count + 1, *begin.shape[1:])
  noise[0, :, -1] = torch.tensor(begin)
  told, untold = (embeds(reader.states(sample.parts[:-1]).exact) for sample in samples)
  expected = theirs(
      video=video_of(images), prompt_embeds=told, negative_prompt_embeds=untold,
      height=SIZE[0], width=SIZE[1], num_frames=1 + 4 * count, num_inference_steps=STEPS,
      guidance_scale=SCALE - 1, latents=noise, output_type='latent', return_dict=False,
      conditional_frame_timestep=clean_time, num_latent_conditional_frames=count)[0]
  expected = expected[0, :, -1].numpy()
  assert np.abs(expected - begin).mean() > 0.1
  np.testing.assert_allclose(ours, expected, atol=1e-3)
