"""Times one training step of jaxgen and of diffusers' PyTorch class, side by side.

Both sides get the same weights, tokens, dtype and optimizer (forward, backward, AdamW). Steps
alternate, so that a busy machine slows all sides alike, and the medians are compared:

  python tools/bench_step.py
  python tools/bench_step.py --hidden=3072 --double=4 --single=8 --image=4096 --text=512
  python tools/bench_step.py --system=imontage
  python tools/bench_step.py --system=query_kontext

``iomm`` trains FLUX on square images of one size. ``imontage`` trains HunyuanVideo on a packed row
of pairs of mixed sizes, which PyTorch's class takes one by one: as they are, and padded to the
longest of them (``packed_row.py``). ``query_kontext`` trains connector, kontext tokens and MMDiT
beside the frozen language model (``kontext_step.py``), and says what share of the step that takes.

The process restarts itself once with settings of malloc that both sides profit from: huge pages,
and memory that was used once is kept. On a GPU, both run in bf16 and the MFU is printed too:
matrix-product FLOPs with full bidirectional attention, without rematerialisation, against the bf16
peak of the chip.

Beside the ratio stand the rates of bare matrix products in XLA and in torch on this machine, and
the share of XLA's that the step reaches (``matmul_rate.py``).
"""

import argparse
import dataclasses
import functools
import math
import statistics
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import kontext_step
import matmul_rate
import numpy as np
import packed_row
from timing import ADAMW
from timing import alternate
from timing import machine
from timing import RATE
from timing import report_times
from timing import set_malloc
from train_step import jaxgen_step

from jaxgen.conversion import engine
from jaxgen.conversion.family import Family
from jaxgen.conversion.tables import flux
from jaxgen.conversion.tables import hunyuan_video
from jaxgen.core import trees
from jaxgen.core.types import Conditioning
from jaxgen.core.types import Visual
from jaxgen.models import registry
from jaxgen.models.denoisers.base import Denoiser
from jaxgen.training.flops import count_flops

PEAKS = {'H100': 989e12, 'H200': 989e12, 'H800': 989e12}  # dense bf16 FLOP/s
CHANNELS, POOLED = 64, 96


@dataclasses.dataclass(frozen=True)
class Case:
  """A denoiser and the tokens that a step trains it on.

  Attributes:
    flags: of the command.
    family: conversion table of the denoiser.
    kind: name of diffusers' class.
    fields: of the denoiser's section, besides those that both systems have.
    batch: arrays of ``denoiser_inputs``, and the ``target``, the velocity f32[B, L, C] to learn.
    calls: name of a side of PyTorch -> functions ``(model, tensors of the batch) -> (velocity,
      target)`` of some target tokens, in any layout; together all of the batch.
    words: what the batch holds.
  """

  flags: argparse.Namespace
  family: Family
  kind: str
  fields: dict[str, Any]
  batch: dict[str, np.ndarray]
  calls: Mapping[str, Sequence[Callable]]
  words: str

  @property
  def tokens(self) -> int:
    """Tokens of a row, text included."""
    return self.batch['latents'].shape[1] + self.batch['states'].shape[1]

  def sides(self, dtype: jnp.dtype, platform: str) -> dict[str, Callable[[], float]]:
    """Name -> function that runs one training step and returns its loss."""
    module = make_module(self, dtype)
    params = make_params(module)
    sides = {'jaxgen': jaxgen_step(functools.partial(loss_of, module), params, self.batch)}
    if not self.flags.no_torch:
      import diffusers
      kind = getattr(diffusers, self.kind)
      sides |= {name: torch_step(self.batch, torch_model(self.family, kind, module, params), calls,
                                 platform)
                for name, calls in self.calls.items()}
    return sides

  def flops(self) -> float:
    """Matrix-product FLOPs of a step with full attention, also between the samples of a row."""
    module = make_module(self, jnp.float32, remat='none')
    return count_flops(jax.value_and_grad(functools.partial(loss_of, module)),
                       make_params(module), self.batch)

  def shares(self, seconds: float) -> list[str]:
    """What parts of a step of so many seconds take, as lines; a denoiser has none."""
    del seconds
    return []


def main():
  flags = parse_flags()
  set_malloc()
  case = CASES[flags.system](flags)
  device = jax.devices()[0]
  dtype = jnp.float32 if device.platform == 'cpu' else jnp.bfloat16
  sides = case.sides(dtype, device.platform)
  losses, times = alternate(sides, flags.steps)
  print(machine())
  print(f'device {device.device_kind}, {jnp.dtype(dtype).name}, {case.words}, '
        f'hidden {flags.hidden}, {flags.double}+{flags.single} blocks, {flags.steps} steps')
  report_times(losses, times)
  report_ratios(times)
  del sides  # the products need its memory
  seconds = statistics.median(times['jaxgen'])
  print(*case.shares(seconds), sep='\n')
  rates = matmul_rate.measure(case.tokens, flags.hidden, dtype, not flags.no_torch)
  report_flops(case.flops(), device, seconds, rates)


def parse_flags() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--system', choices=tuple(CASES), default='iomm')
  for name, default, said in (
      ('hidden', 512, ''), ('double', 2, ''), ('single', 4, ''), ('steps', 11, ''),
      ('unroll', 4, 'blocks per scan iteration'), ('text', 128, 'tokens of a prompt'),
      ('image', 1024, 'iomm: tokens of an image'), ('batch', 1, 'iomm: rows')):
    parser.add_argument(f'--{name}', type=int, default=default, help=said)
  parser.add_argument('--pixels', type=int, choices=(16, 32, 64), default=64,
                      help='imontage: along one side of a token; 16 at full size')
  parser.add_argument('--remat', choices=('none', 'dots', 'full'), default='none')
  parser.add_argument('--no-torch', action='store_true', help='time jaxgen alone')
  return parser.parse_args()


def iomm(flags: argparse.Namespace) -> Case:
  """Square images, one segment per row."""
  return Case(
      flags, flux.FAMILY, 'FluxTransformer2DModel', dict(in_channels=CHANNELS), square_images(flags),
      {'torch': [flux_call]},
      f'{flags.batch} x ({flags.image} image + {flags.text} text tokens)')


def flux_call(model, batch):
  """Velocity and target of all rows, from diffusers' FLUX."""
  import torch
  pooled = torch.zeros(len(batch['t']), model.config.pooled_projection_dim,
                       device=batch['t'].device)
  velocity = model(
      hidden_states=batch['latents'], encoder_hidden_states=batch['states'],
      pooled_projections=pooled, timestep=batch['t'][:, 0],
      img_ids=batch['positions'][0].float(), txt_ids=batch['state_positions'][0].float(),
      return_dict=False)[0]
  return velocity, batch['target']


def square_images(flags: argparse.Namespace, channels: int = CHANNELS) -> dict[str, np.ndarray]:
  """Random tokens of square images, and the velocity to learn."""
  side = math.isqrt(flags.image)
  if side * side != flags.image:
    raise SystemExit(f'--image={flags.image}: must be a square number of tokens')
  rng = np.random.default_rng(0)
  h, w = np.indices((side, side)).reshape(2, -1)
  positions = np.stack([np.zeros_like(h), h, w], axis=-1)

  def normal(length, channels):
    return rng.normal(size=(flags.batch, length, channels)).astype(np.float32)

  return dict(
      latents=normal(flags.image, channels),
      t=rng.uniform(size=(flags.batch, 1)).astype(np.float32),
      positions=np.tile(positions, (flags.batch, 1, 1)).astype(np.int32),
      segments=np.ones((flags.batch, flags.image), np.int32),
      states=normal(flags.text, flags.hidden),
      state_positions=np.zeros((flags.batch, flags.text, 3), np.int32),
      state_segments=np.ones((flags.batch, flags.text), np.int32),
      target=normal(flags.image, channels))


def imontage(flags: argparse.Namespace) -> Case:
  """Pairs of mixed sizes in one row."""
  if flags.batch != 1:
    raise SystemExit(f'--batch={flags.batch}: a packed row holds several samples; use 1')
  batch = packed_row.make_batch(flags.pixels, flags.text, CHANNELS, flags.hidden, POOLED)
  row = batch['segments'][0]
  return Case(
      flags, hunyuan_video.FAMILY, 'HunyuanVideoTransformer3DModel',
      dict(in_channels=CHANNELS, out_channels=CHANNELS, pooled_dim=POOLED), batch,
      packed_row.torch_calls(batch),
      f'a row of {len(row)} tokens, {100 * np.mean(row == 0):.1f} % of them padding: pairs of '
      f'{np.bincount(row)[1:].tolist()} tokens, {flags.text} text tokens for each')


CASES = {'iomm': iomm, 'imontage': imontage, 'query_kontext': kontext_step.Kontext}


def make_module(case: Case, dtype: jnp.dtype, **changes: Any) -> Denoiser:
  """The denoiser; ``changes`` replace fields of its section."""
  flags = case.flags
  fields = case.fields | dict(
      cond_dim=flags.hidden, width=flags.hidden, heads=flags.hidden // 128,
      double_blocks=flags.double, single_blocks=flags.single, remat=flags.remat,
      unroll=flags.unroll) | changes
  return registry.build(registry.section(case.family.name, **fields), dtype)


def denoiser_inputs(latents, t, positions, segments, states, state_positions, state_segments,
                    pooled=None, guidance=None, clean=False):
  """``(x_t, t, visual, conditioning)`` from arrays of a batch; ``clean`` tokens are conditions."""
  is_target = (segments > 0) & jnp.logical_not(clean)
  visual = Visual(latents, positions, segments, images=segments, is_target=is_target)
  return latents, t, visual, Conditioning(states, state_positions, state_segments, pooled=pooled,
                                          guidance=guidance)


def make_params(module: Denoiser) -> dict:
  """Random weights without the zeros of the initialisation; host arrays."""
  rng = np.random.default_rng(1)
  return trees.map_named(lambda _, leaf: 0.02 * rng.standard_normal(leaf.shape, np.float32),
                         registry.param_shapes(module))


def loss_of(module: Denoiser, params: Any, inputs: Mapping[str, jax.Array]) -> jax.Array:
  """Mean squared error of the velocity over channels and target tokens."""
  inputs = dict(inputs)
  target = inputs.pop('target')
  x_t, t, visual, conditioning = denoiser_inputs(**inputs)
  velocity = module.apply({'params': params}, x_t, t, visual, conditioning)
  errors = jnp.mean(jnp.square(velocity - target), axis=-1)  # [B, L]
  return jnp.mean(errors, where=visual.is_target)


def torch_step(batch: Mapping[str, np.ndarray], model: Any, calls: Sequence[Callable],
               platform: str) -> Callable[[], float]:
  """``jaxgen_step`` for a model of PyTorch: its fastest AdamW, a backward pass per call.

  Args:
    batch, calls: of a ``Case``.
    model: whose parameters train, where they ask for a gradient.
    platform: where it runs.
  """
  import torch
  if platform != 'cpu' and not torch.cuda.is_available():
    raise SystemExit('this PyTorch sees no GPU; install a CUDA build or pass --no-torch')
  device = 'cpu' if platform == 'cpu' else 'cuda'
  model = model.to(device)
  optimizer = torch.optim.AdamW(
      [value for value in model.parameters() if value.requires_grad], RATE,
      (ADAMW['b1'], ADAMW['b2']), ADAMW['eps'], ADAMW['weight_decay'], fused=True)
  inputs = {name: torch.tensor(array, device=device) for name, array in batch.items()}
  _, _, visual, _ = denoiser_inputs(
      **{name: array for name, array in batch.items() if name != 'target'})
  count = int(visual.is_target.sum()) * batch['target'].shape[-1]

  def step():
    total = 0.0
    for call in calls:
      with torch.autocast(device, torch.bfloat16, enabled=device == 'cuda'):
        velocity, target = call(model, inputs)
      loss = torch.sum(torch.square(velocity.float() - target)) / count
      loss.backward()
      total += loss.detach()
    optimizer.step()
    optimizer.zero_grad()
    return total.item()

  return step


def torch_model(family: Family, kind: type, module: Denoiser, params: dict) -> Any:
  """diffusers' class with our weights."""
  import torch
  model = kind.from_config(family.write_config(module.config.__dict__))
  model.load_state_dict({name: torch.tensor(array) for name, array in
                         engine.to_torch(family.rules, params).items()}, strict=True)
  return model


def report_ratios(times: Mapping[str, Sequence[float]]) -> None:
  """A table of the sides of PyTorch."""
  if len(times) == 1:
    return
  print('\n| PyTorch | torch / jaxgen (medians) | (best) | (steps in pairs) |\n|---|---|---|---|')
  ours = times['jaxgen']
  for name, theirs in times.items():
    if name != 'jaxgen':
      pairs = [their / our for their, our in zip(theirs, ours, strict=True)]
      print(f'| {name} | {statistics.median(theirs) / statistics.median(ours):.2f} '
            f'| {min(theirs) / min(ours):.2f} | {statistics.median(pairs):.2f} |')
  print('1.0 or more means that jaxgen is at least as fast\n')


def report_flops(flops, device, seconds, rates):
  """Model FLOP/s beside the bare products, and the MFU where the chip's peak is known."""
  for rate in rates:
    print(rate)
  line = (f'jaxgen   {flops / seconds / 1e12:.3f} TFLOP/s, '
          f"{100 * flops / seconds / rates[0].xla:.0f} % of XLA's rate of the first product")
  for chip, peak in PEAKS.items():
    if chip in device.device_kind:
      line += f', MFU {100 * flops / seconds / peak:.1f} % of {peak / 1e12:.0f} TFLOP/s'
  print(line)
  print(matmul_rate.GOAL)


if __name__ == '__main__':
  main()
