"""``jaxgen doctor``."""

import sys

from jaxgen.flags import shared


def add(commands) -> None:
  """Adds the command."""
  parser = shared.command(commands, 'doctor', _doctor,
                          'say what is installed, what devices there are, and what is broken')
  parser.add_argument('--workdir', metavar='DIR', default='.', help='also rights, space and locks '
                      'there; the current folder unless given')


def _doctor(args) -> None:
  from jaxgen.operations import doctor
  text, faults = doctor.report(args.workdir)
  print(text)
  if faults:
    sys.exit(1)
