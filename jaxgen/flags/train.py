"""``jaxgen train``."""

import sys

from jaxgen.flags import shared


def add(commands) -> None:
  """Adds the command."""
  parser = shared.command(commands, 'train', _train,
                          'train, or resume the run that the workdir holds')
  shared.add_config(parser)
  parser.add_argument('--workdir', required=True, metavar='DIR', help='of the run')
  shared.add_processes(parser)
  parser.add_argument('--stopped-code', type=int, default=0, metavar='CODE',
                      help='exit code after SIGTERM, for launchers that start such runs again')
  parser.add_argument('--profile', default='', metavar='FROM:TO',
                      help='trace these steps for xprof, into plugins/profile of the workdir')


def _train(args) -> None:
  from jaxgen.config import load_config
  from jaxgen.config import validate
  from jaxgen.operations.trace import parse_steps
  profile = parse_steps(args.profile)
  config = load_config(args.config, args.overrides)
  validate(config)  # before anything that takes long to import
  from jaxgen.conversion.pretrained import read_external
  from jaxgen.sampling.validation import drawing
  from jaxgen.training.loop import train
  if not train(config, args.workdir, shared.processes(args), read_external, profile, drawing):
    sys.exit(args.stopped_code)
