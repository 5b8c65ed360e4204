"""Times one FLUX-shaped training step of jaxgen and of diffusers' PyTorch class, side by side.

Both sides get the same weights, batch, dtype and optimizer (forward, backward, AdamW). Steps
alternate, so that a busy machine slows both alike, and the medians are compared:

  python tools/bench_step.py
  python tools/bench_step.py --hidden=3072 --double=4 --single=8 --image=4096 --text=512

The process restarts itself once with settings of malloc that both sides profit from: huge pages,
and memory that was used once is kept. On a GPU, both run in bf16 and the MFU is printed too:
matrix-product FLOPs with full bidirectional attention, three times the forward pass, against the
bf16 peak of the chip.

Beside the ratio stand the rates of bare matrix products in XLA and in torch on this machine, and
the share of XLA's that the step reaches (``matmul_rate.py``).
"""

import argparse
import functools
import math
import statistics

import jax
import jax.numpy as jnp
import matmul_rate
import numpy as np
import optax
from timing import alternate
from timing import machine
from timing import report_times
from timing import set_malloc

from jaxgen.conversion import engine
from jaxgen.conversion.tables import flux
from jaxgen.core import trees
from jaxgen.core.types import Conditioning
from jaxgen.core.types import Visual
from jaxgen.models import registry
from jaxgen.models.denoisers.mmdit import MMDiT
from jaxgen.models.denoisers.mmdit import MMDiTConfig

PEAKS = {'H100': 989e12, 'H200': 989e12, 'H800': 989e12}  # dense bf16 FLOP/s
ADAMW = dict(b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.0)
RATE = 1e-4


def main():
  flags = parse_flags()
  set_malloc()
  config = MMDiTConfig(
      in_channels=64, cond_dim=flags.hidden, width=flags.hidden, heads=flags.hidden // 128,
      double_blocks=flags.double, single_blocks=flags.single, remat=flags.remat,
      unroll=flags.unroll)
  batch = make_batch(config, flags)
  params = make_params(config)
  device = jax.devices()[0]
  dtype = jnp.float32 if device.platform == 'cpu' else jnp.bfloat16
  sides = {'jaxgen': jaxgen_step(config, params, batch, dtype)}
  if not flags.no_torch:
    sides['torch'] = torch_step(config, params, batch, device.platform)

  losses, times = alternate(sides, flags.steps)
  print(machine())
  print(f'device {device.device_kind}, {jnp.dtype(dtype).name}, {flags.batch} x '
        f'({flags.image} image + {flags.text} text tokens), hidden {flags.hidden}, '
        f'{flags.double}+{flags.single} blocks, {flags.steps} steps')
  report_times(losses, times)
  if 'torch' in times:
    ratio = statistics.median(times['torch']) / statistics.median(times['jaxgen'])
    best = min(times['torch']) / min(times['jaxgen'])
    print(f'ratio torch/jaxgen: {ratio:.2f} (medians), {best:.2f} (best); >= 1 means that jaxgen '
          'is at least as fast')
  del sides  # the products need its memory
  rates = matmul_rate.measure(flags.image + flags.text, flags.hidden, dtype, not flags.no_torch)
  report_flops(step_flops(config, flags), device, statistics.median(times['jaxgen']), rates)


def parse_flags() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  for name, default in (('hidden', 512), ('double', 2), ('single', 4), ('image', 1024),
                        ('text', 128), ('batch', 1), ('steps', 11), ('unroll', 4)):
    parser.add_argument(f'--{name}', type=int, default=default)
  parser.add_argument('--remat', choices=('none', 'dots', 'full'), default='none')
  parser.add_argument('--no-torch', action='store_true', help='time jaxgen alone')
  return parser.parse_args()


def make_batch(config: MMDiTConfig, flags: argparse.Namespace) -> dict[str, np.ndarray]:
  """Random tokens of square images, one segment per row, and the velocity to learn."""
  side = math.isqrt(flags.image)
  if side * side != flags.image:
    raise SystemExit(f'--image={flags.image}: must be a square number of tokens')
  rng = np.random.default_rng(0)
  h, w = np.indices((side, side)).reshape(2, -1)
  positions = np.stack([np.zeros_like(h), h, w], axis=-1)

  def normal(length, channels):
    return rng.normal(size=(flags.batch, length, channels)).astype(np.float32)

  return dict(
      latents=normal(flags.image, config.in_channels),
      t=rng.uniform(size=(flags.batch, 1)).astype(np.float32),
      positions=np.tile(positions, (flags.batch, 1, 1)).astype(np.int32),
      segments=np.ones((flags.batch, flags.image), np.int32),
      states=normal(flags.text, config.cond_dim),
      state_positions=np.zeros((flags.batch, flags.text, 3), np.int32),
      state_segments=np.ones((flags.batch, flags.text), np.int32),
      target=normal(flags.image, config.in_channels))


def denoiser_inputs(latents, t, positions, segments, states, state_positions, state_segments,
                    pooled=None, guidance=None):
  """``(x_t, t, visual, conditioning)`` of one target image in each row, from arrays of a batch."""
  visual = Visual(latents, positions, segments, images=segments, is_target=segments > 0)
  return latents, t, visual, Conditioning(states, state_positions, state_segments, pooled=pooled,
                                          guidance=guidance)


def make_params(config: MMDiTConfig) -> dict:
  """Random weights without the zeros of the initialisation; host arrays."""
  shapes = registry.param_shapes(MMDiT(config))
  rng = np.random.default_rng(1)
  return trees.map_named(
      lambda _, leaf: 0.02 * rng.standard_normal(leaf.shape, np.float32), shapes)


def jaxgen_step(config, params, batch, dtype):
  """A function that runs one donated training step and returns its loss."""
  optimizer = optax.adamw(RATE, **ADAMW)
  inputs = {name: jnp.asarray(array) for name, array in batch.items()}
  params = jax.tree.map(jnp.asarray, params)

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def train(params, state, inputs):
    inputs = dict(inputs)
    target = inputs.pop('target')

    def loss_of(params):
      velocity = MMDiT(config, dtype).apply({'params': params}, *denoiser_inputs(**inputs))
      return jnp.mean(jnp.square(velocity - target))

    loss, gradient = jax.value_and_grad(loss_of)(params)
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state, loss

  held = [params, jax.jit(optimizer.init)(params)]

  def step():
    *held[:], loss = train(*held, inputs)
    jax.block_until_ready(held)
    return float(loss)

  return step


def torch_step(config, params, batch, platform):
  """The same for diffusers' class, with PyTorch's fastest AdamW."""
  import torch
  from diffusers import FluxTransformer2DModel
  if platform != 'cpu' and not torch.cuda.is_available():
    raise SystemExit('this PyTorch sees no GPU; install a CUDA build or pass --no-torch')
  device = 'cpu' if platform == 'cpu' else 'cuda'
  model = FluxTransformer2DModel.from_config(flux.FAMILY.write_config(config.__dict__))
  model.load_state_dict({name: torch.tensor(array) for name, array in
                         engine.to_torch(flux.RULES, params).items()}, strict=True)
  model.to(device)
  optimizer = torch.optim.AdamW(
      model.parameters(), RATE, (ADAMW['b1'], ADAMW['b2']), ADAMW['eps'],
      ADAMW['weight_decay'], fused=True)
  inputs = {name: torch.tensor(array, device=device) for name, array in batch.items()}
  pooled = torch.zeros(len(batch['t']), model.config.pooled_projection_dim, device=device)

  def step():
    with torch.autocast(device, torch.bfloat16, enabled=device == 'cuda'):
      velocity = model(
          hidden_states=inputs['latents'], encoder_hidden_states=inputs['states'],
          pooled_projections=pooled, timestep=inputs['t'][:, 0],
          img_ids=inputs['positions'][0].float(), txt_ids=inputs['state_positions'][0].float(),
          return_dict=False)[0]
    loss = torch.mean(torch.square(velocity.float() - inputs['target']))
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()

  return step


def step_flops(config, flags) -> int:
  """Matrix-product FLOPs of a step with full attention."""
  tokens, width = flags.image + flags.text, config.width
  block = 2 * 4 * width**2 + 2 * 2 * width * config.blocks.hidden  # per token
  attention = 2 * 2 * tokens * width  # per token, both directions
  ends = flags.image * 2 * 2 * config.in_channels * width + flags.text * 2 * config.cond_dim * width
  blocks = config.double_blocks + config.single_blocks
  return 3 * flags.batch * (blocks * tokens * (block + attention) + ends)


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
