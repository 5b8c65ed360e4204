"""Times THE train step with and without the norms of groups, which it computes at every step.

  python tools/bench_norms.py configs/iomm/tiny.py
  python tools/bench_norms.py configs/iomm/tiny.py optimizer.name=adamw train.rows=4

Fields of the config may follow. Both sides run on one device and take turns; the CPU time of a step
is what it used, whatever else the machine did.
"""

import statistics
import sys
import time
from collections.abc import Callable

import jax
from bench_mesh import fill
from ml_collections import ConfigDict
from timing import alternate
from timing import machine

from jaxgen.config import load_config
from jaxgen.planning.program import make_program
from jaxgen.training import step as train_step

STEPS = 15


def main():
  config = load_config(sys.argv[1], sys.argv[2:])
  spent: dict[str, list[float]] = {'norms': [], 'without': []}
  sides, norms = {}, train_step.norms
  for name, computed in (('norms', norms), ('without', lambda tree: {})):
    train_step.norms = computed
    sides[name] = make_step(name, config, spent[name])
  alternate(sides, STEPS)
  medians = {name: statistics.median(seconds[1:]) for name, seconds in spent.items()}
  print(f'{medians["norms"]:.3f} s, {medians["without"]:.3f} s without norms: '
        f'{medians["norms"] / medians["without"] - 1:+.1%}; {machine()}')


def make_step(name: str, config: ConfigDict, spent: list[float]) -> Callable[[], float]:
  """A function that runs one step, returns its loss and adds its CPU seconds to the list."""
  program = make_program(config, jax.devices()[:1])
  compiled = program.lowered.compile()
  count = sum(leaf.size for leaf in jax.tree.leaves(program.blueprint.state.params))
  print(f'{name}: {count:,} parameters train, {compiled.cost_analysis()["bytes accessed"]:.3g} '
        f'bytes accessed, {compiled.memory_analysis().temp_size_in_bytes:.3g} temporary')
  state, frozen, batch = fill((program.blueprint.state, program.blueprint.frozen, program.batch))
  held = [state]

  def step():
    began = time.process_time()
    held[0], metrics = compiled(held[0], frozen, batch)
    jax.block_until_ready(held)
    spent.append(time.process_time() - began)
    return float(metrics['loss'])

  return step


if __name__ == '__main__':
  main()
