"""Packs a trained run on drawn scenes as what `jaxgen hello` draws from, and draws its picture.

  python tools/pack_hello.py WORKDIR [--task=scene]

WORKDIR was scored by `jaxgen evaluate`: the prompts are of its held-out problems, those first that
it draws right. Writes jaxgen/sampling/hello.zip and docs/images/hello.png.
"""

import argparse
import os
import pathlib
import shutil
import sys
import tempfile

from jaxgen.core import quiet

quiet.settle(os.environ)  # before jax is imported

from jaxgen.checkpoints import packed
from jaxgen.checkpoints.weights import newest_step
from jaxgen.core.files import read_json
from jaxgen.sampling.hello import hello
from jaxgen.sampling.hello import PICTURE
from jaxgen.sampling.hello import SHIPPED
from jaxgen.sampling.load import run_config
from jaxgen.systems.registry import make_system

MOST = 5_000_000  # bytes
PROMPTS = 6


def main() -> int:
  """Returns 1 where the file is larger than may be shipped."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('workdir')
  parser.add_argument('--task', default='', help='of the prompts; those with plain texts if empty')
  args = parser.parse_args()
  config = run_config(args.workdir)
  record = read_json(f'{args.workdir}/evaluation.json', 'run jaxgen evaluate')
  samples = [sample for sample in record['samples'] if args.task in ('', sample['task'])]
  samples.sort(key=lambda sample: not sample['correct'])
  tasks = {sample['task'] for sample in samples}
  about = dict(
      what=f'{config.system}, {newest_step(args.workdir)} steps on drawn scenes of '
           f'{config.data.image_size} x {config.data.image_size} pixels',
      scores={task: score for task, score in record['score'].items() if task in tasks},
      prompts=list(dict.fromkeys(sample['caption'] for sample in samples))[:PROMPTS])
  size = packed.pack(args.workdir, make_system(config).groups, SHIPPED, about)
  print(f'{SHIPPED}: {size:,} bytes')
  if size > MOST:
    SHIPPED.unlink()
    print(f'more than {MOST:,}: removed again; pack a smaller run', file=sys.stderr)
    return 1
  with tempfile.TemporaryDirectory() as folder:
    print(hello(folder))
    picture = pathlib.Path(__file__).parents[1] / 'docs/images/hello.png'
    shutil.copy(pathlib.Path(folder) / PICTURE, picture)
    print(picture)
  return 0


if __name__ == '__main__':
  sys.exit(main())
