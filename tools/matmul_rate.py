"""FLOP/s of bare matrix products in XLA and in PyTorch: what a model's time is judged by.

Which library multiplies faster depends on the processor, so a ratio of two models means little
without the ratio of their products:

  python tools/matmul_rate.py [--tokens=1024] [--width=512] [--bf16]
"""

import argparse
import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from timing import alternate
from timing import machine
from timing import set_malloc

import jaxgen  # noqa: F401  sets the flags of XLA that the models run with

SQUARE = {'cpu': 1024}  # platform -> side of the square product
SQUARE_ELSEWHERE = 8192  # large enough that a kernel's launch does not count
TURNS = 15
WORK = {'cpu': 1e10}  # platform -> FLOPs of a turn, in as many products as that takes
WORK_ELSEWHERE = 1e13
GOAL = ('goal on any processor: torch / jaxgen never below XLA / torch of the bare products, '
        "a step at >= 80 % of XLA's rate")

Shape = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Rate:
  """The best FLOP/s of one product, A[m, k] @ B[k, n].

  Attributes:
    shape: (m, k, n).
    xla, torch: FLOP/s; torch is 0 where it was not measured.
  """

  shape: Shape
  xla: float
  torch: float

  def __str__(self) -> str:
    m, k, n = self.shape
    line = f'product {m} x {k} @ {k} x {n}: XLA {self.xla / 1e9:.0f} GFLOP/s'
    if self.torch:
      line += f', torch {self.torch / 1e9:.0f} GFLOP/s, XLA / torch {self.xla / self.torch:.2f}'
    return line


def measure(tokens: int, width: int, dtype: jnp.dtype, with_torch: bool = True) -> list[Rate]:
  """Rates of the product that fills a model of this width, then of a square one.

  Args:
    tokens, width: the first product is that of an MLP, tokens x width @ width x 4 width.
    dtype: float32 or bfloat16, of the operands.
    with_torch: False measures XLA alone.
  """
  platform = jax.devices()[0].platform
  square = SQUARE.get(platform, SQUARE_ELSEWHERE)
  shapes = ((tokens, width, 4 * width), (square, square, square))
  return [_rate(shape, dtype, platform, with_torch) for shape in shapes]


def _rate(shape: Shape, dtype: jnp.dtype, platform: str, with_torch: bool) -> Rate:
  m, k, n = shape
  flops = 2 * m * k * n
  products = math.ceil(WORK.get(platform, WORK_ELSEWHERE) / flops)
  rng = np.random.default_rng(0)
  operands = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
  sides = {'xla': _xla(operands, dtype, products)}
  if with_torch:
    sides['torch'] = _torch(operands, dtype, products, platform)
  _, times = alternate(sides, TURNS)
  best = {name: products * flops / min(seconds) for name, seconds in times.items()}
  return Rate(shape, best['xla'], best.get('torch', 0.0))


def _xla(operands, dtype, products) -> Callable[[], float]:
  a, b = (jnp.asarray(operand, dtype) for operand in operands)
  product = jax.jit(jnp.matmul)

  def step():
    # One after the other: XLA would run several at the same time on a CPU, which no model does.
    for _ in range(products):
      c = product(a, b).block_until_ready()
    return float(c[0, 0])

  return step


def _torch(operands, dtype, products, platform) -> Callable[[], float]:
  import torch
  kind = {'float32': torch.float32, 'bfloat16': torch.bfloat16}[jnp.dtype(dtype).name]
  device = 'cpu' if platform == 'cpu' else 'cuda'
  a, b = (torch.tensor(operand, dtype=kind, device=device) for operand in operands)

  def step():
    with torch.no_grad():
      for _ in range(products):
        c = a @ b
        if device == 'cuda':
          torch.cuda.synchronize()
    return c[0, 0].item()

  return step


def main() -> None:
  """Prints both rates of both products."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--tokens', type=int, default=1024)
  parser.add_argument('--width', type=int, default=512)
  parser.add_argument('--bf16', action='store_true', help='bfloat16 operands, not float32')
  flags = parser.parse_args()
  set_malloc()
  print(machine())
  for rate in measure(flags.tokens, flags.width, jnp.bfloat16 if flags.bf16 else jnp.float32):
    print(rate)


if __name__ == '__main__':
  main()
