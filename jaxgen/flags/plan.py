"""``jaxgen plan``."""

import os

from jaxgen.flags import shared


def add(commands) -> None:
  """Adds the command."""
  parser = shared.command(commands, 'plan', _plan,
                          'compile the train step for hardware that is not there; say whether '
                          'it fits')
  shared.add_config(parser)
  parser.add_argument('--topology', required=True, metavar='NAME',
                      help='tpu:v5p:4x4x8, tpu:v5p:4x4x8*2 (slices), gpu:h100:8x8 (nodes x GPUs)')
  parser.add_argument('--json', default='', metavar='FILE', help='write the numbers there too')
  parser.add_argument('--search', type=int, default=0, nargs='?', const=6, metavar='N',
                      help='compile N (6) meshes, pieces and remat policies; print the best')


def _plan(args) -> None:
  os.environ['JAX_PLATFORMS'] = 'cpu'  # nothing runs; a device of this machine stays free
  from jaxgen.config import load_config
  config = load_config(args.config, args.overrides)
  from jaxgen.planning.commands import plan
  plan(config, args.topology, json_file=args.json, tries=args.search)
