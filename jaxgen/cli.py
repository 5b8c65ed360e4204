"""The command line: ``jaxgen train | finetune | sample | evaluate | serve | plan | ...``.

A command imports what it needs when it runs, so that ``--help`` is immediate and nothing but
training loads TensorFlow. Mistakes of the user end in one line and exit code 1; any other
exception is a defect and keeps its traceback.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from jaxgen.core import quiet
from jaxgen.core.errors import UserError
from jaxgen.core.errors import user_error
from jaxgen.core.limits import MAX_GUIDANCE
from jaxgen.core.limits import MAX_IMAGES
from jaxgen.core.limits import MAX_OUTPUTS
from jaxgen.core.limits import MAX_SEED
from jaxgen.core.limits import MAX_SIDE
from jaxgen.core.limits import MAX_TEMPERATURE
from jaxgen.core.limits import MAX_TOKENS
from jaxgen.core.limits import check_range
from jaxgen.flags import convert
from jaxgen.flags import curate
from jaxgen.flags import data
from jaxgen.flags import doctor
from jaxgen.flags import evaluate
from jaxgen.flags import finetune
from jaxgen.flags import hello
from jaxgen.flags import plan
from jaxgen.flags import push
from jaxgen.flags import report
from jaxgen.flags import sample
from jaxgen.flags import serve
from jaxgen.flags import study
from jaxgen.flags import train

OVERRIDE = '--config.'
# Flag -> least and greatest number; None is no limit.
RANGES = {
    'num_processes': (0, None), 'process_id': (-1, None), 'stopped_code': (0, 255),
    'outputs': (1, MAX_OUTPUTS), 'seed': (0, MAX_SEED), 'steps': (0, 10_000),
    'guidance': (0, MAX_GUIDANCE), 'image_guidance': (0, MAX_GUIDANCE),
    'images_per_prompt': (1, None), 'prompts': (1, None), 'fit': (0, None), 'held_out': (0, None),
    'images': (0, MAX_IMAGES), 'max_images': (0, MAX_IMAGES), 'max_tokens': (0, MAX_TOKENS),
    'temperature': (0, MAX_TEMPERATURE),
    'search': (0, None), 'limit': (0, None), 'size': (0, MAX_SIDE), 'rows': (1, None),
    'lora': (1, None), 'text_lora': (0, None), 'shards': (1, None), 'vocab': (1, None),
    'every': (1, None), 'port': (0, 65535), 'queue': (1, None), 'draws': (1, None),
    'timeout': (0.001, None), 'drain': (0, None), 'concurrency': (1, None), 'workers': (1, None),
    'gpus_per_worker': (0, None),
    'items': (1, None), 'participants': (1, None)}
NAMED = ('config', 'workdir', 'out', 'data')
COMMANDS = (train, finetune, sample, serve, evaluate, plan, convert, push, data, curate, report,
            study, doctor, hello)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one command; returns the exit code."""
  parser = make_parser()
  args, rest = parser.parse_known_args(argv)
  strangers = [word for word in rest if not word.startswith(OVERRIDE)]
  if strangers or (rest and not args.overridable(args)):
    parser.error(f'unrecognised arguments: {" ".join(strangers or rest)}; '
                 f'overrides are written {OVERRIDE}section.key=value')
  args.overrides = [word.removeprefix(OVERRIDE) for word in rest]
  quiet.settle(os.environ)
  try:
    _check(vars(args))
    args.run(args)
  except UserError as error:
    print(f'jaxgen: {error}', file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    return 130
  return 0


def _check(args: dict[str, Any]) -> None:
  """Refuses numbers out of range, and an empty word where a file or folder must be named."""
  for name, (least, most) in RANGES.items():
    if isinstance(args.get(name), int | float):
      check_range(f'--{name.replace("_", "-")}', args[name], least, most)
  for name in NAMED:
    if args.get(name) == '':
      # An empty path would be the current folder.
      raise user_error(f'--{name}', '', 'name a file or folder')


def make_parser() -> argparse.ArgumentParser:
  """The parser of all commands."""
  parser = argparse.ArgumentParser(
      prog='jaxgen', allow_abbrev=False,
      description='Train, run and ship unified multimodal image generators.',
      epilog='Commands with --config, finetune, and sample, serve and evaluate with --base, '
      f'take {OVERRIDE}section.key=value too, any number of times.')
  commands = parser.add_subparsers(title='commands', metavar='COMMAND', required=True)
  for command in COMMANDS:
    command.add(commands)
  return parser


if __name__ == '__main__':
  sys.exit(main())
