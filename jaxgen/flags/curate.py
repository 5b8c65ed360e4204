"""``jaxgen curate``."""

from jaxgen.core.errors import user_error
from jaxgen.flags import shared


def add(commands) -> None:
  """Adds the command."""
  parser = shared.command(commands, 'curate', _curate, 'build a data set by a recipe, or go on '
                          'with the one that the folder holds')
  parser.add_argument('recipe', metavar='RECIPE', help='a Python file with get_recipe(), as those '
                      'in configs/curation/')
  parser.add_argument('--in', default='', dest='source', metavar='PATH',
                      help='what the recipe reads: a folder or a table')
  parser.add_argument('--out', required=True, metavar='DIR', help='folder of the samples, for '
                      'sources of kind arrayrecord')
  parser.add_argument('--engine', default='local', metavar='NAME',
                      help='local (the default), ray, or ray:ADDRESS of a cluster')
  parser.add_argument('--workers', type=int, default=1, metavar='N', help='processes of ray')
  parser.add_argument('--model', action='append', default=[], metavar='NAME=KIND:WHAT',
                      help='what a model of the recipe is, as captions=chat:MODEL@URL; may be '
                      'given several times')
  parser.add_argument('--licence', default='', help='of inputs that say nothing themselves')


def _curate(args) -> None:
  from jaxgen.curation.commands import curate
  from jaxgen.curation.engine import Job
  models = dict(word.split('=', 1) for word in args.model if '=' in word)
  if len(models) != len(args.model):
    raise user_error('--model', args.model, 'write NAME=KIND:WHAT, once for each name')
  if args.workers > 1 and args.engine == 'local':
    raise user_error('--workers', args.workers, 'local is one process; add --engine=ray')
  curate(Job(args.recipe, args.source, args.out, tuple(models.items()), args.licence,
             args.workers), args.engine)
