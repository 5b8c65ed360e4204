"""Seconds from a command to its first image, of a published pipeline that lies in a folder.

  python tools/bench_start.py
  python tools/bench_start.py --hidden=1024 --double=4 --single=8

``jaxgen sample --base`` with an empty cache of compiled programs, the same again, and a program
that does the same with diffusers' pipeline: each in a process of its own, imports included.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from collections.abc import Sequence

from bench_finetune import PROMPT
from bench_finetune import saved
from timing import machine

THEIRS = """
import diffusers, sys
folder, prompt, side, steps, out = sys.argv[1:]
pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
pipeline.set_progress_bar_config(disable=True)
pipeline(prompt, height=int(side), width=int(side), guidance_scale=1.0,
         num_inference_steps=int(steps)).images[0].save(out)
"""


def main() -> None:
  """Prints the seconds of each start, and the size of the pipeline."""
  flags = parse_flags()
  found: dict[str, list[float]] = {'jaxgen, nothing compiled': [], 'jaxgen, again': [],
                                   'diffusers': []}
  with tempfile.TemporaryDirectory() as temporary:
    place = pathlib.Path(temporary)
    folder = saved(place / 'flux', flags)
    size = sum(file.stat().st_size for file in pathlib.Path(folder).rglob('*.safetensors'))
    ours = [pathlib.Path(sys.executable).parent / 'jaxgen', 'sample', f'--base={folder}',
            f'--prompt={PROMPT}', f'--size={flags.side}x{flags.side}', f'--steps={flags.draw_steps}',
            f'--out={place}/drawn', '--config.sampling.rows=1']
    theirs = [sys.executable, '-c', THEIRS, folder, PROMPT, str(flags.side), str(flags.draw_steps),
              f'{place}/theirs.png']
    for turn in range(flags.starts):
      cache = {'JAX_COMPILATION_CACHE_DIR': f'{place}/cache{turn}'}
      for name, command in zip(found, (ours, ours, theirs), strict=True):
        found[name].append(seconds(command, cache))
    print(f'{machine()}; {size / 1e9:.2f} GB, {flags.side} x {flags.side} pixels in '
          f'{flags.draw_steps} steps')
  for name, times in found.items():
    print(f'{name:26s} median {statistics.median(times):5.1f} s  best {min(times):5.1f} s')


def parse_flags() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  for name, default in dict(hidden=512, double=2, single=4, side=128, draw_steps=8,
                            starts=3).items():
    parser.add_argument(f'--{name.replace("_", "-")}', type=int, default=default)
  return parser.parse_args()


def seconds(command: Sequence[str | pathlib.Path], environ: Mapping[str, str]) -> float:
  """How long a command takes, which has to succeed."""
  began = time.perf_counter()
  done = subprocess.run(command, env=os.environ | environ, check=False, capture_output=True,
                        text=True)
  if done.returncode:
    sys.exit(f'{command[0]} ended with {done.returncode}:\n{done.stderr[-2000:]}')
  return time.perf_counter() - began


if __name__ == '__main__':
  main()
