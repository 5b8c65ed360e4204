"""iMontage against diffusers: its forward pass as released, and whole sampling by the pipelines.

Ours is told of images by the data floor alone: the positions, the order and the prompts are those
that a request gets. Weights go over by ``jaxgen convert export``.
"""

import copy
import dataclasses
import functools
import pathlib

import jax
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from diffusers import AutoencoderKLHunyuanVideo
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers import HunyuanVideoImageToVideoPipeline
from diffusers import HunyuanVideoPipeline
from diffusers import HunyuanVideoTransformer3DModel
from ml_collections import ConfigDict
from PIL import Image
from tokenizers import processors

from configs.imontage import shapes
from jaxgen.checkpoints.weights import save_weights
from jaxgen.config import to_json
from jaxgen.conversion.commands import export
from jaxgen.conversion.tables import hunyuan_video as table
from jaxgen.core import trees
from jaxgen.data.examples import ExampleMaker
from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample
from jaxgen.data.tokenizer import END
from jaxgen.data.tokenizer import IMAGE_START
from jaxgen.data.tokenizer import PAD
from jaxgen.data.tokenizer import load_tokenizer
from jaxgen.models.autoencoders.patchify import patchify
from jaxgen.models.autoencoders.patchify import unpatchify
from jaxgen.models.registry import section
from jaxgen.sampling.batching import make_batch
from jaxgen.sampling.generate import solve
from jaxgen.sampling.generate import tokens_of
from jaxgen.sampling.request import request_of
from jaxgen.sampling.schedules import linear_sigmas
from jaxgen.sampling.stepping import noise_of
from jaxgen.sharding import partition
from jaxgen.sharding.mesh import make_mesh
from jaxgen.systems.registry import make_system
from jaxgen.systems.registry import with_preset
from tests.models import float64
from tests.models import parity
from tests.models.rows import denoiser_inputs
from tests.systems import released

PIXELS = 16  # along a token: 8 of the autoencoder, 2 of the patch
TEXT = 'make a red circle of the blue square'
TEMPLATE = dict(template='{}', crop_start=0)
LLAMA_TOKENS, CLIP_TOKENS = 96, 77
# (height, width) in tokens of the references and of the targets; 16 tokens in all, one program.
SIZES = {
    'equal': ([(1, 2)] * 4, [(1, 2)] * 4),
    'unequal': ([(2, 1), (1, 2)], [(2, 3), (3, 2)]),
}


def save_tokenizer(folder: str, source: str, template: str, pad: str) -> str:
  """The tokenizer of a folder with start and end tokens around a text, as a tower's has."""
  ours = load_tokenizer(source)
  backend = tokenizers.Tokenizer.from_str(ours.backend.to_str())
  backend.post_processor = processors.TemplateProcessing(
      single=template, special_tokens=[(IMAGE_START, ours.image_start), (END, ours.end)])
  transformers.PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=pad, eos_token=END
                                       ).save_pretrained(folder)
  return folder


def tiny_config(folder: pathlib.Path, source: str) -> ConfigDict:
  """Every model of iMontage at a tiny size; CLIP pads with its end token."""
  config = shapes.tiny()
  towers = config.data.tower_tokenizers
  towers.text_encoder = save_tokenizer(str(folder / 'tokenizer'), source, f'{IMAGE_START} $A', PAD)
  towers.text_encoder_2 = save_tokenizer(str(folder / 'tokenizer_2'), source,
                                         f'{IMAGE_START} $A {END}', END)
  config.model.text_encoder.update(width=32, layers=3, heads=4, mlp=64)
  config.model.text_encoder_2.update(width=16, positions=CLIP_TOKENS,
                                     eos_id=load_tokenizer(source).end)
  config.model.denoiser.update(in_channels=16, out_channels=16, cond_dim=32, pooled_dim=16,
                               width=32, heads=2, double_blocks=1, single_blocks=1,
                               refiner_blocks=2, axes_dims=(4, 6, 6))
  config.model.autoencoder = section('hunyuan_video_vae', channels=4, block_channels=(4, 4, 8, 8),
                                     layers_per_block=1, norm_groups=2)
  config.data.prompt_tokens = LLAMA_TOKENS
  config.data.references = 'native'
  config.sampling.update(steps=8, guidance=1.0)
  return config


@dataclasses.dataclass
class Both:
  """A tiny iMontage with random weights, and the folders of its export."""

  config: ConfigDict
  params: dict
  folder: pathlib.Path

  def solved(self, config, request) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Noise and final latents f32[h w, C] of every output."""
    system, mesh = make_system(config), make_mesh(config.mesh, jax.devices()[:1])
    maker = ExampleMaker.of(config, system.layout)
    batch = make_batch([request], system, maker, rows=1, ways=1)
    sigmas = linear_sigmas(config.sampling.steps, config.sampling.timestep_shift)
    with partition.scope(mesh):
      latents = solve(system, self.params, batch, sigmas, config.sampling.solver, mesh, ())
    noise = np.asarray(noise_of(batch.keys, latents.shape[-1]))
    return tuple([tokens_of(found, drawn) for drawn in batch.drawn] for found in (noise, latents))

  def pipeline(self, shift: float, kind=HunyuanVideoTransformer3DModel) -> HunyuanVideoPipeline:
    """Of the exported models."""
    towers = self.config.data.tower_tokenizers
    pipeline = HunyuanVideoPipeline(
        text_encoder=transformers.LlamaModel.from_pretrained(self.folder / 'text_encoder'),
        tokenizer=transformers.PreTrainedTokenizerFast.from_pretrained(towers.text_encoder),
        transformer=kind.from_pretrained(self.folder / 'denoiser'),
        vae=AutoencoderKLHunyuanVideo.from_pretrained(self.folder / 'autoencoder'),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
        text_encoder_2=transformers.CLIPTextModel.from_pretrained(self.folder / 'text_encoder_2'),
        tokenizer_2=transformers.PreTrainedTokenizerFast.from_pretrained(towers.text_encoder_2))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope='module')
def both(tiny_tokenizer, tmp_path_factory) -> Both:
  folder = tmp_path_factory.mktemp('released')
  config, rng = tiny_config(folder, tiny_tokenizer), np.random.default_rng(0)
  params = trees.map_named(
      lambda _, leaf: np.float32(rng.normal(0.0 if leaf.ndim > 1 else 0.5, 0.2, leaf.shape)),
      make_system(config).shapes())
  save_weights(str(folder / 'run'), params, to_json(config))
  export(str(folder / 'run'), str(folder / 'export'))
  return Both(config, params, folder / 'export')


def pictures(grids) -> list[np.ndarray]:
  """One for each size in tokens; uint8[H, W, 3]."""
  rng = np.random.default_rng(1)
  return [rng.integers(0, 256, (rows * PIXELS, columns * PIXELS, 3), np.uint8)
          for rows, columns in grids]


def request_for(config, inputs, outputs):
  """References and targets of these sizes in tokens."""
  given = [Part('reference', image=image) for image in pictures(inputs)]
  targets = [Part('target', loss=True, size=(rows * PIXELS, columns * PIXELS))
             for rows, columns in outputs]
  sample = Sample('drawn', (*given, Part('user', text=TEXT), *targets), task='many_to_many')
  return request_of(config, sample, seed=3, number=0)


# The forward pass.


@functools.cache
def applied(denoiser):
  return jax.jit(lambda params, batch: denoiser.apply(params, *denoiser_inputs(**batch)))


@pytest.mark.parametrize('inputs, outputs', SIZES.values(), ids=SIZES)
def test_the_released_forward_and_its_gradients(both, inputs, outputs):
  system = make_system(both.config)
  maker = ExampleMaker.of(both.config, system.layout)
  denoiser, config = system.models['denoiser'], system.models['denoiser'].config
  request = request_for(both.config, inputs, outputs)
  laid = make_batch([request], system, maker, rows=1, ways=1).branches.batch
  visual, shown = laid.visual, laid.towers['text_encoder'].shown[:, 0]
  used, rng = int((visual.segments > 0).sum()), np.random.default_rng(2)
  assert used == sum(rows * columns for rows, columns in inputs + outputs)
  assert 0 < shown.sum() < shown.size  # the text is padded

  def normal(*shape):
    return rng.normal(size=shape).astype(np.float32)

  batch = dict(
      latents=normal(1, used, config.in_channels), t=np.float32([[0.7]]),
      positions=visual.positions[:, :used], segments=visual.segments[:, :used],
      clean=visual.is_clean[:, :used], states=normal(1, shown.size, config.cond_dim),
      state_positions=laid.towers['text_encoder'].state_positions[:, 0],
      state_segments=shown.astype(np.int32), pooled=normal(1, 1, config.pooled_dim),
      guidance=np.float32([[system.guidance]]))
  params = parity.random_params(denoiser)
  model = parity.load(HunyuanVideoTransformer3DModel.from_config(
      table.FAMILY.write_config(config.__dict__)), table.RULES, params)
  model.rope = released.MarginalRope(model.rope, inputs, outputs)

  def velocity(model, latents, states, pooled):
    return released.tokens(model(
        hidden_states=released.strip(latents), timestep=torch.tensor(1000 * batch['t'][:, 0]),
        encoder_hidden_states=states, encoder_attention_mask=torch.tensor(batch['state_segments']),
        pooled_projections=pooled[:, 0], guidance=torch.tensor(1000 * batch['guidance'][:, 0]),
        return_dict=False)[0])

  apply = applied(denoiser)
  parity.assert_same_with_gradients(apply, params, batch, model, velocity, table.RULES,
                                    ('latents', 'states', 'pooled'))
  theirs = parity.theirs(model, velocity, *(batch[name] for name in (
      'latents', 'states', 'pooled')))
  np.testing.assert_allclose(apply({'params': params}, batch), theirs.rounded, atol=1e-4)


# Whole sampling.


def frames(latents, grids) -> list[torch.Tensor]:
  """Tokens f32[h w, 4 C] of images as latent frames f32[1, C, 1, 2 h, 2 w]."""
  return [torch.tensor(np.asarray(unpatchify(image[None], grid, 2))).permute(0, 3, 1, 2)[:, :, None]
          for image, grid in zip(latents, grids, strict=True)]


def strip_of(images) -> torch.Tensor:
  """Latent frames of several sizes as one strip of patches."""
  return torch.cat([released.strip(torch.tensor(np.asarray(patchify(
      image[:, :, 0].permute(0, 2, 3, 1).numpy(), 2)))) for image in images], dim=-1)


def asked(config) -> dict:
  """What a text-to-image pipeline is told, whatever it draws."""
  return dict(prompt=TEXT, negative_prompt=config.sampling.negative_prompt,
              true_cfg_scale=config.sampling.guidance, guidance_scale=config.model.guidance,
              num_inference_steps=config.sampling.steps, prompt_template=TEMPLATE,
              max_sequence_length=LLAMA_TOKENS, output_type='latent')


def assert_same(ours, theirs, noise):
  """Latents of the two, which have gone far from the noise."""
  np.testing.assert_allclose(ours, theirs, atol=1e-3)
  assert np.abs(ours - noise).mean() > 0.3


@pytest.mark.parametrize('scale, told', [(1.0, 6.0), (4.0, 1.0)], ids=['plain', 'true CFG'])
def test_text_to_image_equals_the_pipeline(both, scale, told):
  """One frame at time 0, as its class has it: the scheme ``flux``."""
  config, grids = copy.deepcopy(both.config), [(2, 3)]
  config.data.scheme = 'flux'
  config.model.guidance, config.sampling.guidance = told, scale
  config.sampling.negative_prompt = 'a blurred picture'
  noise, latents = both.solved(config, request_for(config, [], grids))
  noise, latents = frames(noise, grids)[0], frames(latents, grids)[0]
  pipeline = both.pipeline(config.sampling.timestep_shift)
  with float64.our_time_frequencies():
    found = pipeline(**asked(config), latents=noise, num_frames=1,
                     height=2 * PIXELS, width=3 * PIXELS).frames
  assert_same(latents, found, noise)


@pytest.mark.parametrize('inputs, outputs', SIZES.values(), ids=SIZES)
def test_the_released_loop_with_its_settings(both, inputs, outputs):
  """The preset; references clean in the image stream, all tokens with one time."""
  config = with_preset(both.config, 'released')
  request = request_for(config, inputs, outputs)
  noise, latents = both.solved(config, request)
  pipeline = both.pipeline(7.0, released.ManyToMany)
  references = [torch.tensor(image).permute(2, 0, 1)[None, :, None] / 127.5 - 1
                for image in pictures(inputs)]
  with torch.no_grad():
    references = [pipeline.vae.encode(image).latent_dist.mode() *
                  pipeline.vae.config.scaling_factor for image in references]
  pipeline.transformer.look_at(strip_of(references), inputs, outputs)
  noise, latents = (strip_of(frames(images, outputs)) for images in (noise, latents))
  with float64.our_time_frequencies():
    found = pipeline(**asked(config), latents=noise, height=PIXELS, width=PIXELS)
  assert_same(latents, found.frames, noise)


def test_one_source_equals_the_image_to_video_pipeline(both):
  """A clean frame with time 0, and a noisy one behind it.

  The release has none of it: its references have the time of the targets. And it lacks what else
  the pipeline does: an image in the prompt, whose states are given here, and one in the noise.
  """
  config, grids = copy.deepcopy(both.config), [(1, 2)]
  config.data.scheme, config.model.denoiser.clean_time = 'per_image', 'zero'
  config.sampling.update(guidance=4.0, negative_prompt='a blurred picture')
  noise, latents = both.solved(config, request_for(config, grids, grids))
  noise, latents = frames(noise, grids)[0], frames(latents, grids)[0]
  parts = both.pipeline(config.sampling.timestep_shift)
  words = {}
  for prefix, text in (('', TEXT), ('negative_', config.sampling.negative_prompt)):
    found = parts.encode_prompt(text, prompt_template=TEMPLATE, max_sequence_length=LLAMA_TOKENS)
    words |= {prefix + name: value for name, value in zip(
        ('prompt_embeds', 'pooled_prompt_embeds', 'prompt_attention_mask'), found, strict=True)}
  transformer = HunyuanVideoTransformer3DModel.from_config(
      table.FAMILY.write_config(config.model.denoiser.to_dict()))
  parity.load(transformer, table.RULES, both.params['denoiser'])
  pipeline = HunyuanVideoImageToVideoPipeline(
      text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None,
      image_processor=None, transformer=transformer, vae=parts.vae, scheduler=parts.scheduler)
  pipeline.set_progress_bar_config(disable=True)
  image = Image.fromarray(pictures(grids)[0])
  # Its noise has a thousandth of the image in it, which is taken out beforehand.
  clean = pipeline.prepare_latents(
      pipeline.video_processor.preprocess(image), 1, 4, PIXELS, 2 * PIXELS, 1, torch.float32,
      latents=noise, image_condition_type='token_replace')[1]
  start = torch.cat([noise, (noise - 0.001 * clean) / 0.999], dim=2)
  with float64.our_time_frequencies():
    found = pipeline(image, **words, latents=start, num_frames=5, height=PIXELS, width=2 * PIXELS,
                     true_cfg_scale=4.0, guidance_scale=config.model.guidance,
                     num_inference_steps=config.sampling.steps, output_type='latent').frames
  assert_same(latents, found[:, :, 1:], noise)
