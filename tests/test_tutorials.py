"""The tutorials, followed as written: every block of commands that a CPU can run, at tiny size."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
TUTORIALS = ROOT / 'docs/tutorials'
BLOCK = re.compile(r'(<!-- not replayed: .+? -->\n)?```sh\n(.*?)^```', re.DOTALL | re.MULTILINE)
FEW = ('--config.train.steps=2 --config.train.rows=2 --config.optimizer.warmup_steps=1 '
       '--config.optimizer.schedule=constant --config.sampling.steps=1')
# The evaluation of the quickstart draws hundreds of dialogues: it counts as done.
EVALUATED = '''mkdir -p runs/quickstart_duetgen
echo '{"stage": "evaluate align", "seconds": 0}' > runs/quickstart_duetgen/timings.jsonl
'''
# What is made smaller: text of the page -> text in its place. Every entry must be on its page.
CHANGES = {
    'photos': {
        'launch/photos.sh IMAGES runs/photos': f'launch/photos.sh IMAGES runs/photos {FEW}',
        'launch/photos.sh EDITS runs/edits': f'launch/photos.sh EDITS runs/edits {FEW}'},
    'lora': {
        'black-forest-labs/FLUX.1-dev': 'BASE',
        '--size=512': '--size=32 --steps=3 --config.data.prompt_tokens=32 '
                      '--config.sampling.steps=1 --config.train.checkpoint_every=2',
        '--prompt=': '--steps=1 --size=32 --prompt='},
    'dialogues': {
        'SYSTEM=duetgen launch/quickstart.sh runs/quickstart_duetgen':
            f'{EVALUATED}SYSTEM=duetgen launch/quickstart.sh runs/quickstart_duetgen {FEW}',
        '--out=runs/answer': '--out=runs/answer --images=1 --max-tokens=4 --steps=1'},
    'tpu_pod': {'--shards=64': '--shards=2',
                'configs/iomm/pretrain_b.py --topology=tpu:v5p:4x4x4':
                    'configs/iomm/quickstart.py:pretrain --topology=tpu:v5p:2x2x1'},
    'slurm': {},
    'plan': {'configs/iomm/finetune_b_1024.py': 'configs/iomm/quickstart.py:pretrain',
             'tpu:v5p:2x4x4': 'tpu:v5p:2x2x1', 'tpu:v5p:2x2x2': 'tpu:v5p:2x2x1'},
}


@pytest.fixture
def checkout(tmp_path) -> pathlib.Path:
  """A checkout beside IMAGES, EDITS and ComfyUI's folders, where commands are given."""
  for name in ('jaxgen', 'configs', 'launch', '.git'):
    (tmp_path / name).symlink_to(ROOT / name)
  rng = np.random.default_rng(0)
  for index in range(16):
    for folder in ('IMAGES', 'EDITS/target', 'EDITS/control'):
      (tmp_path / folder).mkdir(parents=True, exist_ok=True)
      image = Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8))
      image.save(tmp_path / folder / f'{index}.png')
      if 'control' not in folder:
        (tmp_path / folder / f'{index}.txt').write_text(f'a photo of sks backpack {index}')
  image.save(tmp_path / 'bag.jpg')
  (tmp_path / 'COMFYUI/models/loras').mkdir(parents=True)
  return tmp_path


def blocks(name: str) -> list[str]:
  """The replayed blocks of a tutorial, after its changes."""
  text = (TUTORIALS / f'{name}.md').read_text()
  found = [commands for skipped, commands in BLOCK.findall(text) if not skipped]
  for old, new in CHANGES[name].items():
    assert any(old in commands for commands in found), old
  pattern = re.compile('|'.join(map(re.escape, sorted(CHANGES[name], key=len, reverse=True))))
  return [pattern.sub(lambda match: CHANGES[name][match[0]], commands) if CHANGES[name]
          else commands for commands in found]


def test_every_tutorial_is_replayed():
  """But for the worked diff, whose code tests/systems/test_worked_diff.py runs."""
  assert {page.stem for page in TUTORIALS.glob('*.md')} == {*CHANGES, 'adding_a_system'}
  for name in CHANGES:
    assert blocks(name)


@pytest.mark.parametrize('name', [
    'slurm', *(pytest.param(name, marks=pytest.mark.slow) for name in CHANGES if name != 'slurm')])
def test_the_commands_of_a_tutorial_run_as_written(name, checkout):
  if name == 'lora':
    from tests.systems import tiny_pipelines  # torch and diffusers, for this one alone
    tiny_pipelines.save_flux(checkout / 'BASE')
  environ = os.environ | {
      'PATH': f'{pathlib.Path(sys.executable).parent}:{os.environ["PATH"]}',
      'PYTHONPATH': str(ROOT), 'XLA_FLAGS': '--xla_backend_optimization_level=0'}
  for commands in blocks(name):
    result = subprocess.run(['bash', '-euo', 'pipefail', '-c', commands], cwd=checkout, text=True,
                            capture_output=True, check=False, env=environ)
    assert result.returncode == 0, f'{commands}\n{result.stdout}\n{result.stderr}'
  shutil.rmtree(checkout / 'runs', ignore_errors=True)
