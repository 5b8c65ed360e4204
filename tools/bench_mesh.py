"""Times THE train step on a mesh of eight CPU devices against one device, on the same total work.

Both take the same global batch; the mesh splits it over data and fsdp, parameters over fsdp, heads
and hidden units over tensor. Steps alternate, so that a busy machine slows both alike:

  python tools/bench_mesh.py
  python tools/bench_mesh.py --data=2 --fsdp=1 --context=2 --tensor=2

Devices of one CPU share its cores, so the ratio of the medians is what splitting costs:
collectives, smaller products, and work that every device repeats. On accelerators devices add up
instead.
"""

import argparse
import os
import statistics

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('XLA_FLAGS', '--xla_force_host_platform_device_count=8')

import jax
import numpy as np
from ml_collections import ConfigDict
from timing import alternate
from timing import machine
from timing import report_times

from configs.iomm import shapes
from jaxgen.planning.program import make_program
from jaxgen.sharding.mesh import AXES

LATENT = 4  # pixels along one side of a latent token


def main():
  flags = parse_flags()
  one = dict.fromkeys(AXES, 1)
  sizes = {axis: getattr(flags, axis) for axis in AXES}
  sides = {'one device': make_step(flags, one), 'mesh': make_step(flags, sizes)}
  losses, times = alternate(sides, flags.steps)
  print(f'{flags.rows} rows of {flags.side**2} latent tokens, width {flags.width}, {flags.double}+'
        f'{flags.single} blocks, mesh {" ".join(f"{axis}={sizes[axis]}" for axis in AXES)}; '
        f'{machine()}')
  report_times(losses, times)
  ratio = statistics.median(times['mesh']) / statistics.median(times['one device'])
  best = min(times['mesh']) / min(times['one device'])
  print(f'ratio mesh / one device: {ratio:.2f} (medians), {best:.2f} (best)')


def parse_flags() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  for name, default in (('data', 2), ('fsdp', 2), ('context', 1), ('tensor', 2), ('rows', 8),
                        ('side', 16), ('width', 512), ('double', 2), ('single', 4), ('steps', 11)):
    parser.add_argument(f'--{name}', type=int, default=default)
  return parser.parse_args()


def make_config(flags: argparse.Namespace, sizes: dict[str, int]) -> ConfigDict:
  """A small IOMM whose work is nearly all in its denoiser, trained with AdamW and an EMA."""
  config = shapes.generation(image_share=0.5)
  config.model.denoiser.update(
      width=flags.width, heads=flags.width // 64, double_blocks=flags.double,
      single_blocks=flags.single, axes_dims=(16, 24, 24))
  config.model.mllm.vision.heads = 4
  config.data.image_size = LATENT * flags.side
  config.data.visual_tokens = flags.side**2
  config.optimizer.name = 'adamw'
  config.train.rows = flags.rows
  config.mesh.update(sizes)
  return config


def make_step(flags: argparse.Namespace, sizes: dict[str, int]):
  """A function that runs one step on a mesh and returns its loss."""
  count = int(np.prod(list(sizes.values())))
  program = make_program(make_config(flags, sizes), jax.devices()[:count])
  compiled = program.lowered.compile()
  blueprint = program.blueprint
  state, frozen, batch = fill((blueprint.state, blueprint.frozen, program.batch))
  held = [state]

  def step():
    held[0], metrics = compiled(held[0], frozen, batch)
    jax.block_until_ready(held)
    return float(metrics['loss'])

  return step


def fill(tree):
  """Arrays for shapes: small random numbers, and ones, which make all tokens one segment."""
  rng = np.random.default_rng(0)

  def make(leaf):
    if np.issubdtype(leaf.dtype, np.floating):
      values = 0.02 * np.abs(rng.standard_normal(leaf.shape, np.float32))
    else:
      values = np.ones(leaf.shape)
    return jax.device_put(values.astype(leaf.dtype), leaf.sharding)

  return jax.tree.map(make, tree)


if __name__ == '__main__':
  main()
