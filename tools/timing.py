"""What the benchmarks share: sides that take turns, the settings of malloc, the machine's name."""

import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from collections.abc import Mapping

MALLOC = {'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1:'
                            'glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=34359738368'}
REST = 0.03  # seconds before each step
ADAMW, RATE = dict(b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.0), 1e-4  # of the optimizer

Sides = Mapping[str, Callable[[], float]]


def alternate(sides: Sides, steps: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
  """Losses and seconds of every side; the first step compiles and is not timed.

  Before each step the threads of the other side come to rest: PyTorch's spin for 9 ms after their
  last work, on a core that the next step needs.
  """
  losses = {name: [step()] for name, step in sides.items()}
  times = {name: [] for name in sides}
  for _ in range(steps):
    for name, step in sides.items():
      time.sleep(REST)
      start = time.perf_counter()
      losses[name].append(step())
      times[name].append(time.perf_counter() - start)
  return losses, times


def report_times(losses: Mapping[str, list[float]], times: Mapping[str, list[float]]) -> None:
  """A line for each side."""
  for name, seconds in times.items():
    print(f'{name:10s} median {statistics.median(seconds):.3f} s  best {min(seconds):.3f} s  '
          f'loss {losses[name][0]:.6f} -> {losses[name][-1]:.6f}')


def set_malloc() -> None:
  """Starts this program again with the settings; malloc reads them at start-up only."""
  if not MALLOC.keys() <= os.environ.keys():  # a setting of one's own stays
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | MALLOC)


def machine() -> str:
  """Processor, cores that this process may use, and how busy they are."""
  return (f'{processor()}, {len(os.sched_getaffinity(0))} cores, '
          f'load {os.getloadavg()[0]:.1f}')


def processor() -> str:
  """Model name of the processor; of one that has none, as on Arm, the architecture."""
  for line in pathlib.Path('/proc/cpuinfo').read_text().splitlines():
    name, _, value = line.partition(':')
    if name.strip() == 'model name':
      return value.strip()
  return os.uname().machine
