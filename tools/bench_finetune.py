"""Fine-tuning and sampling of a published pipeline, beside peft and diffusers, in one run.

  python tools/bench_finetune.py
  python tools/bench_finetune.py --hidden=1024 --side=256

A FLUX-shaped pipeline with random weights is saved as a folder, which both sides open. A training
step: forward, backward and AdamW of adapters of one rank in the same modules, beside frozen
kernels, on latents and states that are known, as both sides cache them. Sampling: a prompt to
pixels, towers and autoencoder included. The sides take turns, and the medians are compared.
"""

import argparse
import dataclasses
import pathlib
import sys
import tempfile
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import bench_step
import jax
import numpy as np
from timing import alternate
from timing import machine
from timing import report_times
from timing import set_malloc
from train_step import jaxgen_step

from jaxgen.conversion.commands import Model
from jaxgen.conversion.lora import to_theirs
from jaxgen.conversion.lora_files import save_peft
from jaxgen.conversion.pipelines import Pipeline
from jaxgen.conversion.pipelines import open_pipeline
from jaxgen.conversion.pretrained import read_external
from jaxgen.conversion.pretrained import read_params
from jaxgen.core import trees
from jaxgen.finetuning.recipe import adapt
from jaxgen.models.layers import lora
from jaxgen.sampling.generate import placed
from jaxgen.sampling.load import load_published
from jaxgen.sampling.request import make_request
from jaxgen.sharding.mesh import make_mesh
from jaxgen.systems.registry import make_system

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from tests.systems import tiny_pipelines

PROMPT, HEAD = 'a red circle above a blue square', 128

Sides = Mapping[str, Callable[[], float]]


def main() -> None:
  """Prints the seconds of both sides and their ratio, of a training step and of an image."""
  flags = parse_flags()
  set_malloc()
  with tempfile.TemporaryDirectory() as temporary:
    pipeline = open_pipeline(saved(pathlib.Path(temporary) / 'flux', flags))
    print(machine())
    print(f'float32, hidden {flags.hidden}, {flags.double}+{flags.single} blocks, '
          f'{flags.side} x {flags.side} pixels in {(flags.side // 4)**2} tokens')
    for words, sides in (
        (f'a training step of adapters of rank {flags.rank}', training(pipeline, temporary, flags)),
        (f'a prompt to pixels in {flags.draw_steps} steps', sampling(pipeline, flags))):
      print(f'\n{words}, {flags.steps} times')
      losses, times = alternate(sides, flags.steps)
      report_times(losses, times)
      bench_step.report_ratios(times)


def parse_flags() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  for name, default in dict(hidden=512, double=2, single=4, side=128, text=128, rank=16, batch=1,
                            steps=9, draw_steps=8).items():
    parser.add_argument(f'--{name.replace("_", "-")}', type=int, default=default)
  return parser.parse_args()


def saved(folder: pathlib.Path, flags: argparse.Namespace) -> str:
  """A pipeline like FLUX.1-schnell, four pixels along a token."""
  return tiny_pipelines.save_flux(
      folder, distilled=False, channels=(32, 64), num_layers=flags.double,
      num_single_layers=flags.single, num_attention_heads=flags.hidden // HEAD,
      attention_head_dim=HEAD, axes_dims_rope=(16, 56, 56))


def training(pipeline: Pipeline, place: str, flags: argparse.Namespace) -> Sides:
  """Name -> function that runs one step and returns its loss."""
  import diffusers
  import peft
  config = pipeline.config.copy_and_resolve_references().unlock()
  adapt(config, flags.rank)
  system, model = make_system(config), pipeline.models['denoiser']
  module, batch = system.models['denoiser'], tokens(model.section, flags)
  rng = np.random.default_rng(2)
  adapters = trees.map_named(  # ``b`` has moved, so that ``a`` has a gradient
      lambda path, leaf: 0.02 * rng.standard_normal(leaf.shape, np.float32)
      if path.endswith('/b') else np.asarray(leaf),
      lora.split(system.init(jax.random.key(0), ['denoiser'])['denoiser'])[1])
  learns = {path: not path.endswith('/alpha') for path in trees.flatten(adapters)}
  trained, constants = trees.partition(adapters, learns)
  frozen = trees.merge(read_params(model), constants)

  def loss(trained: Any, frozen: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
    return bench_step.loss_of(module, trees.merge(trained, frozen), batch)

  rules = Model(model.section, model.family).layout('modules').rules
  save_peft(f'{place}/peft', to_theirs(rules, model.shapes, adapters))
  theirs = peft.PeftModel.from_pretrained(diffusers.FluxTransformer2DModel.from_pretrained(
      pipeline.folder, subfolder='transformer'), f'{place}/peft', is_trainable=True)
  return {'jaxgen': jaxgen_step(loss, trained, frozen, batch),
          'peft': bench_step.torch_step(batch, theirs, [bench_step.flux_call], 'cpu')}


def tokens(section: Mapping[str, Any], flags: argparse.Namespace) -> dict[str, np.ndarray]:
  """A batch for a denoiser; see ``bench_step.Case``."""
  sizes = argparse.Namespace(batch=flags.batch, image=(flags.side // 4)**2, text=flags.text,
                             hidden=section['cond_dim'])
  return bench_step.square_images(sizes, section['in_channels']) | dict(
      pooled=np.zeros((flags.batch, 1, section['pooled_dim']), np.float32))


def sampling(pipeline: Pipeline, flags: argparse.Namespace) -> Sides:
  """Name -> function that draws an image and returns the mean of its pixels."""
  import diffusers
  mesh = make_mesh(pipeline.config.mesh, jax.devices()[:1])
  with (config := pipeline.config.copy_and_resolve_references()).unlocked():
    config.sampling.rows = 1
  run = load_published(config, read_external)
  run = dataclasses.replace(run, params=placed(run.system, run.params, config, mesh))
  request = make_request(config, PROMPT, size=(flags.side, flags.side), seed=0)
  theirs = diffusers.DiffusionPipeline.from_pretrained(pipeline.folder)
  theirs.set_progress_bar_config(disable=True)

  def ours() -> float:
    (image,), = run.draw([request], steps=flags.draw_steps, mesh=mesh)
    return float(image.mean())

  def drawn() -> float:
    image, = theirs(PROMPT, height=flags.side, width=flags.side, guidance_scale=1.0,
                    num_inference_steps=flags.draw_steps, output_type='np',
                    max_sequence_length=config.data.prompt_tokens).images
    return float(255 * image.mean())

  return {'jaxgen': ours, 'diffusers': drawn}


if __name__ == '__main__':
  main()
