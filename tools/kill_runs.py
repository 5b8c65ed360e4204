"""Kills a run with SIGKILL at random points, and checks that it ends as if nothing had happened.

  python tools/kill_runs.py [--kills=20] [--seed=0] [--out=DIR]

A run of configs/iomm/tiny.py is killed while it starts, while it restores, at a step, or in a save,
and started again, until it is done. Then every step must have happened once, with the loss and the
samples of a run that was never killed, and every array and cursor of the last checkpoint must be
the same, bit by bit. tests/training/test_resume.py has a quick version.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from tests.training.launched import metrics_of
from tests.training.launched import steps_in
from tests.training.launched import steps_written
from tests.training.opened import Opened

EVERY = 3  # steps between saves
SAME = ('step', 'loss', 'sample_ids', 'grad_norm', 'learning_rate', 'skipped')
KINDS = ('start', 'restore', 'step', 'save')
PATIENCE = 600  # seconds without the awaited point


def main() -> None:
  """Prints each kill, and whether the two runs are the same."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--kills', type=int, default=20)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--out', default='', metavar='DIR', help='new; keep the runs there')
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as temporary:
    out = pathlib.Path(args.out or temporary).resolve()
    check(out, args.kills, random.Random(args.seed))


def check(out: pathlib.Path, kills: int, rng: random.Random) -> None:
  """Trains twice, once with kills, and compares."""
  out.mkdir(parents=True, exist_ok=True)
  tokenizer = out / 'tokenizer'
  subprocess.run([sys.executable, '-m', 'jaxgen.cli', 'data', 'tokenizer', '--kind=shapes',
                  f'--out={tokenizer}'], cwd=ROOT, check=True)
  steps = EVERY * (kills + 4)
  assert train(out / 'straight', tokenizer, steps).wait() == 0
  done, count = out / 'killed', collections.Counter()
  kinds = [KINDS[number % len(KINDS)] for number in range(kills)]
  rng.shuffle(kinds)
  while kinds:
    last = max(steps_in(done), default=0) if (done / 'checkpoints').exists() else 0
    # Without a checkpoint there is nothing to restore yet.
    kind = kinds.pop(0 if last or 'save' not in kinds else kinds.index('save'))
    process, began = train(done, tokenizer, steps), time.monotonic()
    assert kill(process, point(kind, done, last, rng)), 'the run was done before it was killed'
    count[kind] += 1
    print(f'{count.total()}/{kills}: {kind}, from step {last}, after '
          f'{time.monotonic() - began:.1f} s', flush=True)
  assert train(done, tokenizer, steps).wait() == 0
  compare(out / 'straight', done, steps)
  print(f'{steps} steps with {dict(count)} kills: the same metrics, arrays and cursors')


def train(workdir: pathlib.Path, tokenizer: pathlib.Path, steps: int) -> subprocess.Popen:
  """Starts or resumes the run; its log is of this start alone."""
  words = {'data.tokenizer': tokenizer, 'train.steps': steps, 'train.checkpoint_every': EVERY,
           'train.rows': 4, 'train.log_every': 1, 'optimizer.schedule': 'constant'}
  with open(workdir.parent / f'{workdir.name}.log', 'w') as log:
    return subprocess.Popen(
        [sys.executable, '-m', 'jaxgen.cli', 'train', '--config=configs/iomm/tiny.py',
         f'--workdir={workdir}', *(f'--config.{name}={value}' for name, value in words.items())],
        cwd=ROOT, env=os.environ | {'JAX_PLATFORMS': 'cpu'}, stderr=log)


def point(kind: str, workdir: pathlib.Path, last: int, rng: random.Random):
  """A function that says whether the process has come to a random point of this kind."""
  if kind == 'restore':
    folder = workdir / 'checkpoints' / str(last)
    return Opened(folder, rng.randint(1, len(list(folder.rglob('*'))) // 2))
  if kind == 'step':
    more = rng.randint(1, 2 * EVERY - 1)
    return delayed(lambda: begun(workdir) and steps_written(workdir) >= last + more,
                   rng.uniform(0, 0.1))
  if kind == 'save':
    # The first save of this start or the second, of which there is a first in any case.
    saving = f'{last + EVERY * rng.randint(1 if last else 2, 2)}.*'
    return delayed(lambda: begun(workdir) and any((workdir / 'checkpoints').glob(saving)),
                   rng.uniform(0, 0.3))
  return delayed(lambda: True, rng.uniform(0, 15))


def begun(workdir: pathlib.Path) -> bool:
  """Whether this start has come to a step; what earlier ones left behind is removed by then."""
  return ' begins after ' in (workdir.parent / f'{workdir.name}.log').read_text()


def delayed(reached, seconds: float):
  """True ``seconds`` after ``reached()`` was."""
  since = None

  def later() -> bool:
    nonlocal since
    if since is None and reached():
      since = time.monotonic()
    return since is not None and time.monotonic() >= since + seconds

  return later


def kill(process: subprocess.Popen, reached) -> bool:
  """Kills the process when it has come that far; False if it ended before."""
  end = time.monotonic() + PATIENCE
  while not reached():
    if process.poll() is not None:
      assert process.returncode == 0, 'the run has failed; see its log'
      return False
    assert time.monotonic() < end, 'the run did not come that far; see its log'
    time.sleep(0.002)
  process.kill()
  return process.wait() < 0


def compare(straight: pathlib.Path, killed: pathlib.Path, steps: int) -> None:
  """Raises ``AssertionError`` unless both runs did and saved the same."""
  lines = metrics_of(killed, *SAME)
  assert [line['step'] for line in lines] == list(range(1, steps + 1))
  assert lines == metrics_of(straight, *SAME)
  assert steps_in(killed) == steps_in(straight)
  assert not [path for path in (killed / 'checkpoints').iterdir() if not path.name.isdigit()]
  # Cursors and, for each array, the checksum that every restore compares.
  ours, theirs = (json.loads((run / 'checkpoints' / str(steps) / 'data/metadata').read_text())
                  for run in (killed, straight))
  assert ours == theirs and ours['checksums']
  ours, theirs = (arrays(run / 'checkpoints' / str(steps)) for run in (killed, straight))
  assert ours and ours == theirs


def arrays(step: pathlib.Path) -> dict[str, bytes]:
  """All values of a checkpoint, by path."""
  import jax
  import numpy as np
  import orbax.checkpoint as ocp
  found = {}
  for item in ('params', 'ema', 'train'):
    handler = ocp.PyTreeCheckpointHandler()
    tree = handler.metadata(step / item).tree
    values = handler.restore(step / item, args=ocp.args.PyTreeRestore(
        item=tree, restore_args=jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)))
    for path, leaf in jax.tree_util.tree_leaves_with_path(values):
      found[f'{item}{jax.tree_util.keystr(path)}'] = np.asarray(leaf).tobytes()
  return found


if __name__ == '__main__':
  main()
