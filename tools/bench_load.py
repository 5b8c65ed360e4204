"""How fast a model is read from the disk: ``load_pretrained`` beside ``cat`` of the same files.

  python tools/bench_load.py [--path=FOLDER] [--repeats=5] [--warm]

Without a path a FLUX-shaped model of 2.6 GB in bf16 is written to a temporary folder first. The
two take turns in one run. The files are dropped from the page cache before each turn, so that both
read the disk; with --warm they stay in memory, and what is measured is the work of the processor.
"""

import argparse
import contextlib
import io
import os
import pathlib
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from timing import machine

from jaxgen.conversion import load_pretrained
from jaxgen.conversion import save_pretrained
from jaxgen.core import trees
from jaxgen.models import registry


def main() -> None:
  """Prints the MB/s of both and their ratio."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--path', default='', help='a model folder; one is made if not given')
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('--warm', action='store_true', help='leave the files in the page cache')
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(args.path or pathlib.Path(temporary) / 'model')
    if not args.path:
      write_model(folder)
    measure(folder, args.repeats, args.warm)


def write_model(folder: pathlib.Path) -> None:
  """A FLUX-shaped model, random in every byte."""
  section = registry.section('mmdit', width=3072, heads=24, double_blocks=2, single_blocks=4,
                             cond_dim=3072)
  module, rng = registry.build(section, jnp.bfloat16), np.random.default_rng(0)
  params = trees.map_named(
      lambda _, leaf: rng.random(leaf.shape, np.float32).astype(ml_dtypes.bfloat16),
      registry.param_shapes(module))
  save_pretrained(module, params, str(folder))


def measure(folder: pathlib.Path, repeats: int, warm: bool) -> None:
  """Lets the two read in turns."""
  files = sorted(folder.glob('*.safetensors'))
  size = sum(file.stat().st_size for file in files) / 1e6

  def cat():
    subprocess.run(['cat', *map(str, files)], stdout=subprocess.DEVNULL, check=True)

  def load():
    with contextlib.redirect_stderr(io.StringIO()):
      jax.block_until_ready(load_pretrained(str(folder))[1])

  rates: dict[str, list[float]] = {'cat': [], 'load_pretrained': []}
  load()  # what is traced once is not timed
  for _ in range(repeats):
    for name, read in (('cat', cat), ('load_pretrained', load)):
      if not warm:
        drop(files)
      rates[name].append(size / seconds(read))
  medians = {name: statistics.median(values) for name, values in rates.items()}
  cache = 'warm' if warm else 'cold'
  print(machine())
  print(f'{size:.0f} MB, {cache} page cache, median of {repeats}: '
        + ', '.join(f'{name} {rate:.0f} MB/s' for name, rate in medians.items())
        + f', ratio {medians["load_pretrained"] / medians["cat"]:.2f}')


def drop(files: list[pathlib.Path]) -> None:
  """Takes files out of the page cache."""
  for file in files:
    handle = os.open(file, os.O_RDONLY)
    os.fsync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)


def seconds(call: Callable[[], None]) -> float:
  """How long a call takes."""
  start = time.perf_counter()
  call()
  return time.perf_counter() - start


if __name__ == '__main__':
  main()
