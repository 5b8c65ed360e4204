"""``jaxgen hello``."""

from jaxgen.flags import shared


def add(commands) -> None:
  """Adds the command."""
  parser = shared.command(commands, 'hello', _hello,
                          'draw a picture from the small trained run that is shipped')
  parser.add_argument('--prompt', action='append', default=[], help='a scene of shapes; may be '
                      'given several times')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--out', default='runs/hello', metavar='DIR')


def _hello(args) -> None:
  from jaxgen.sampling.hello import hello
  print(hello(args.out, args.prompt, args.seed))
