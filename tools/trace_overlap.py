"""How much of the encoding of images runs while a train step runs, from a trace of a run.

  jaxgen train --config=C --workdir=W --profile=8:14
  python tools/trace_overlap.py W

prints the seconds in which operations of the encoder's program ran, of the step's, and the share of
the first within the second. On CPUs both take the same cores, so that only the timeline shows it;
what a device gains shows in ``data_wait`` of the metrics too.
"""

import argparse
import pathlib
from collections.abc import Sequence

from jax.profiler import ProfileData

STEP, ENCODER = 'jit_train_step', 'jit_write'  # programs of training/step.py and training/latents.py
Spans = list[tuple[float, float]]  # begin and end in ns, sorted and apart from each other


def main() -> None:
  """Prints the line."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n', maxsplit=1)[0])
  parser.add_argument('workdir', type=pathlib.Path)
  files = sorted(parser.parse_args().workdir.glob('plugins/profile/*/*.xplane.pb'))
  if not files:
    parser.error('no trace in it; train with --profile=FROM:TO')
  step, encoder = (merged(spans_of(files, program)) for program in (STEP, ENCODER))
  if not step or not encoder:
    parser.error(f'the trace has no operation of {ENCODER if step else STEP}')
  shared = length(common(step, encoder))
  print(f'step {length(step) / 1e9:.2f} s, encoding {length(encoder) / 1e9:.2f} s, of which '
        f'{shared / length(encoder):.0%} while a step ran')


def spans_of(files: Sequence[pathlib.Path], program: str) -> Spans:
  """Begin and end of every operation of a program."""
  return [(event.start_ns, event.end_ns) for file in files
          for plane in ProfileData.from_file(str(file)).planes for line in plane.lines
          for event in line.events if dict(event.stats).get('hlo_module') == program]


def merged(spans: Spans) -> Spans:
  """The same time as spans that do not touch."""
  found: Spans = []
  for begin, end in sorted(spans):
    if found and begin <= found[-1][1]:
      found[-1] = (found[-1][0], max(end, found[-1][1]))
    else:
      found.append((begin, end))
  return found


def common(first: Spans, second: Spans) -> Spans:
  """The time that lies in both."""
  found, i, j = [], 0, 0
  while i < len(first) and j < len(second):
    begin, end = max(first[i][0], second[j][0]), min(first[i][1], second[j][1])
    if begin < end:
      found.append((begin, end))
    if first[i][1] < second[j][1]:
      i += 1
    else:
      j += 1
  return found


def length(spans: Spans) -> float:
  """Nanoseconds of spans that do not touch."""
  return sum(end - begin for begin, end in spans)


if __name__ == '__main__':
  main()
