"""Plans every full-size stage and writes the table of docs/scaling.md.

  python tools/plans.py tpu            all rows for TPUs, with [plan-tpu] (make plan-tpu)
  python tools/plans.py gpu            all rows for GPUs, with [plan-gpu] (make plan-gpu)
  python tools/plans.py tpu --only=flux    rows whose command holds the word
  python tools/plans.py flops          FLOPs of the plans in docs/plans/ again, without compiling
  python tools/plans.py table          the table alone, from the plans in docs/plans/

Each plan is a process of its own, with the compiler's flags of launch/flags/ for its hardware.
"""

import argparse
import json
import os
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parents[1]
PLANS, PAGE = ROOT / 'docs/plans', ROOT / 'docs/scaling.md'
BEGIN, END = '<!-- plans -->', '<!-- end of plans -->'
IOMM = ('pretrain_b', 'finetune_b_512', 'finetune_b_1024', 'pretrain_l', 'finetune_l_512',
        'finetune_l_1024', 'pretrain_xl', 'finetune_xl_512', 'openuni_l_mix', 'qwen_image_mix')
OTHERS = ('imontage/pretrain', 'imontage/sft', 'imontage/hq', 'duetgen/stage1', 'duetgen/stage2',
          'plans/flux_12b', 'plans/hunyuan_video_13b')
# 96 rows do not divide over 64 devices, and eight rows of a device hide the gathers of IOMM-XL.
CHIPS = dict.fromkeys(('finetune_b_1024', 'finetune_l_1024', 'finetune_xl_512'), '2x4x4')
NODES = dict.fromkeys(('finetune_b_1024', 'finetune_l_1024'), '4x8')
RING = '--config.mesh.rules=(("keys",("context",),True),)'
HALVES = '--config.mesh.fsdp=32 --config.mesh.context=2 --config.train.accumulate=2'
# A device of v5p has room for twice the tokens of an H800, and gathers half as often.
OVERRIDES = {('pretrain_xl', 'tpu:v5p:4x4x4'): '--config.train.accumulate=8',
             ('imontage/pretrain', 'tpu:v5p:4x4x4'): RING,  # permutes overlap, gathers do not
             ('imontage/sft', 'tpu:v5p:4x4x4'): HALVES, ('imontage/hq', 'tpu:v5p:4x4x4'): HALVES}
# 48 rows of Qwen-Image do not divide over 64 devices, and devices that share rows or frozen
# parameters wait for each other longer than they compute. Each holds all frozen parameters, an H800
# the denoiser's in eight bits, and takes a row, in fewer steps, so that as many samples train.
ALONE = '--config.mesh.fsdp=1 --config.train.rows=64 --config.train.steps=16425'
OVERRIDES['qwen_image_mix', 'tpu:v5p:4x4x4'] = ALONE
OVERRIDES['qwen_image_mix', 'gpu:h800:8x8'] = (
    f'{ALONE} --config.model.quantized=(("denoiser/.*blocks/.*/kernel","int8"),)')
# 192 devices, two to a row, need rows that three divides: an eighth more of 512 pixels, a half more
# of 1024, in fewer steps, so that as many samples train; pieces leave room for the parameters.
KONTEXT = {'stage1': (576, 64_000, 1), 'stage2': (1152, 373_334, 3), 'stage3': (288, 26_667, 3),
           'stage3_1024': (192, 2_000, 2)}
OVERRIDES |= {(f'query_kontext/{stage}', 'gpu:h100:24x8'):
              f'--config.train.rows={rows} --config.train.steps={steps} '
              f'--config.train.accumulate={pieces}'
              for stage, (rows, steps, pieces) in KONTEXT.items()}
AGAIN = ' --config.model.denoiser.remat=attention'  # blocks are computed again
OVERRIDES['query_kontext/stage3_1024', 'gpu:h100:24x8'] += AGAIN
# A chip of v5p has room for a whole row, and pairs would wait for each other. In stage 1 it holds
# all frozen parameters too; with the 10 B denoiser, whose blocks are computed again, a part of them.
WHOLE = {'stage1': (1, ''), 'stage2': (128, AGAIN), 'stage3': (16, AGAIN),
         'stage3_1024': (16, AGAIN)}
OVERRIDES |= {(f'query_kontext/{stage}', 'tpu:v5p:4x4x8'):
              f'--config.mesh.tensor=1 --config.mesh.fsdp={fsdp}{remat}'
              for stage, (fsdp, remat) in WHOLE.items()}


def rows() -> Iterator[tuple[str, str, str]]:
  """(config, topology, overrides) of every row of the table."""
  for name in IOMM:
    for topology in (f'tpu:v5p:{CHIPS.get(name, "4x4x4")}', f'gpu:h800:{NODES.get(name, "8x8")}'):
      yield f'iomm/{name}', topology, OVERRIDES.get((name, topology), '')
  for name in OTHERS:
    for topology in ('tpu:v5p:4x4x4', 'gpu:h800:8x8'):
      yield name, topology, OVERRIDES.get((name, topology), '')
  for stage in KONTEXT:
    for topology in ('tpu:v5p:4x4x8', 'gpu:h100:24x8'):
      name = f'query_kontext/{stage}'
      yield name, topology, OVERRIDES.get((name, topology), '')


def main() -> int:
  """Returns 1 where a plan did not fit or could not be made."""
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('what', choices=('tpu', 'gpu', 'flops', 'table'))
  parser.add_argument('--only', default='', metavar='WORD')
  args = parser.parse_args()
  codes = [plan(*row) for row in rows()
           if row[1].startswith(args.what) and args.only in ' '.join(row)]
  if args.what == 'flops':
    for row in rows():
      if args.only in ' '.join(row) and file_of(*row[:2]).exists():
        recount(*row)
  head, rest = PAGE.read_text().split(BEGIN)
  PAGE.write_text(f'{head}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}')
  return max(codes, default=0)


def plan(config: str, topology: str, overrides: str) -> int:
  """Runs one plan; its numbers go to docs/plans/."""
  words = command(config, topology, overrides)
  print(' '.join(words), file=sys.stderr, flush=True)
  words = [sys.executable, '-m', 'jaxgen.cli', *words[1:], f'--json={file_of(config, topology)}']
  environment = os.environ | flags(topology)
  return subprocess.run(words, cwd=ROOT, env=environment, check=False).returncode


def recount(config: str, topology: str, overrides: str) -> None:
  """Counts the FLOPs of a plan once more, and writes them and what follows from them."""
  import jax
  from jaxgen.config import load_config
  from jaxgen.objectives import registry
  from jaxgen.planning import roofline
  from jaxgen.planning.program import abstract_batch
  from jaxgen.planning.topology import parse
  from jaxgen.sharding import mesh
  from jaxgen.sharding import partition
  from jaxgen.systems.registry import make_system
  from jaxgen.training import flops
  from jaxgen.training.state import make_blueprint
  loaded = load_config(str(ROOT / f'configs/{config}.py'),
                       [word.removeprefix('--config.') for word in overrides.split()])
  loaded.mesh.update(dict.fromkeys(mesh.AXES, 1))  # FLOPs of a step do not depend on it
  one, system = mesh.make_mesh(loaded.mesh, jax.devices()[:1]), make_system(loaded)
  blueprint = make_blueprint(
      loaded, system, registry.needed_groups(system, registry.make_objectives(loaded)), one)
  batch = abstract_batch(loaded, system.layout, partition.row_sharding(one, loaded.train.rows))
  split = flops.split_tally(blueprint, flops.step_tally(loaded, blueprint, batch))
  executed = sum(flops.step_tally(loaded, blueprint, batch, repeated=True).values())
  plan, hardware = json.loads(file_of(config, topology).read_text()), parse(topology)
  bound = roofline.Bound(
      executed / hardware.size / hardware.chip.flops,
      *(plan[f'{name}_seconds'] for name in ('memory', 'link', 'network', 'waiting')))
  slower = bound.seconds / plan['lower_bound_seconds']
  print(f'{config} {topology}: compute {plan["compute_seconds"]:.3f} -> {bound.compute:.3f} s',
        flush=True)
  plan.update(
      flops=split, flops_per_step=sum(sum(kinds.values()) for kinds in split.values()),
      executed_flops=executed, compute_seconds=bound.compute, lower_bound_seconds=bound.seconds,
      bounded_by=bound.bounded_by, beyond_compute=bound.beyond_compute,
      images_per_second=plan['images_per_second'] / slower,
      device_hours=plan['device_hours'] * slower)
  file_of(config, topology).write_text(json.dumps(plan, indent=2) + '\n')


def flags(topology: str) -> dict[str, str]:
  """The variables of the flag file of this hardware."""
  file = ROOT / 'launch/flags' / f'{"_".join(topology.split(":")[:2])}.env'
  script = f'set -a; . {shlex.quote(str(file))}; env -0'
  text = subprocess.run(['bash', '-c', script], check=True, capture_output=True, text=True,
                        env={}).stdout
  pairs = dict(entry.split('=', 1) for entry in text.split('\0') if '=' in entry)
  return {name: value for name, value in pairs.items() if name in ('LIBTPU_INIT_ARGS', 'XLA_FLAGS')}


def command(config: str, topology: str, overrides: str) -> list[str]:
  """The command of a row, as one would type it."""
  return ['jaxgen', 'plan', f'--config=configs/{config}.py', f'--topology={topology}',
          *overrides.split()]


def file_of(config: str, topology: str) -> pathlib.Path:
  """Where the numbers of a row are kept."""
  name = f'{config}_{topology}'.replace('/', '_').replace(':', '_').replace('*', '_by_')
  return PLANS / f'{name}.json'


def table() -> str:
  """The rows as Markdown; a plan that was not made says so."""
  lines = ['| command | mesh, rows of a device | trained / frozen, B | peak of a device, GiB | free '
           '| PFLOPs of a step, of them frozen | sent, GiB: links / network | lower bound, s | bound by '
           '| images/s | device-hours | compiled, s: wall / cores |',
           '|---|---|---|---|---|---|---|---|---|---|---|---|']
  for row in rows():
    file = file_of(row[0], row[1])
    cells = numbers(json.loads(file.read_text())) if file.exists() else ['not run'] + [''] * 10
    lines.append(f'| `{shlex.join(command(*row))}` | {" | ".join(cells)} |')
  return '\n'.join(lines)


def numbers(plan: dict) -> list[str]:
  """The cells of a row behind its command."""
  mesh = ' x '.join(f'{axis} {size}' for axis, size in plan['mesh'].items() if size > 1)
  ways = plan['mesh']['data'] * plan['mesh']['fsdp'] * plan['accumulate']
  pieces = f', {plan["accumulate"]} pieces' if plan['accumulate'] > 1 else ''
  frozen = plan['params_total'] - plan['params_trainable']
  cells = [f'{mesh}, {plan["rows"] // ways}{pieces}',
           f'{plan["params_trainable"] / 1e9:.2f} / {frozen / 1e9:.2f}',
           f'{plan["peak_bytes"] / 2**30:.1f} of {plan["hbm_bytes"] / 2**30:.0f}',
           f'{plan["headroom"]:.0%}' if plan['fits'] else 'does not fit',
           f'{plan["flops_per_step"] / 1e15:,.1f}, '
           f'{sum(plan["flops"]["frozen"].values()) / 1e15:,.1f}']
  compiled = f'{plan["compile_seconds"]:.0f} / {plan["compile_core_seconds"]:.0f}'
  if plan['lower_bound_seconds'] is None:
    return cells + [''] * 5 + [compiled]
  kinds = plan['collectives'].values()
  sent = [sum(kind[link] for kind in kinds) / 2**30 for link in ('link_bytes', 'network_bytes')]
  return cells + [
      f'{sent[0]:.1f} / {sent[1]:.1f}', f'{plan["lower_bound_seconds"]:.3f}', plan['bounded_by'],
      f'{plan["images_per_second"]:,.0f}', f'{plan["device_hours"]:,.0f}',
      compiled]


if __name__ == '__main__':
  sys.exit(main())
