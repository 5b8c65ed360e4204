"""``jaxgen push``."""

from jaxgen.flags import shared


def add(commands) -> None:
  """Adds the command."""
  parser = shared.command(commands, 'push', _push,
                          'upload a run to the Hugging Face hub, with a model card')
  parser.add_argument('--workdir', required=True, metavar='DIR')
  shared.add_push(parser, required=True)
  shared.add_weights(parser)


def _push(args) -> None:
  from jaxgen.conversion.publishing import push_run
  print(push_run(args.workdir, args.push_to, args.license, args.weights))
