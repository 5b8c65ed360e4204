"""``jaxgen curate``."""

import tempfile
from collections.abc import Sequence

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
                      'sources of kind arrayrecord; here or in a bucket')
  parser.add_argument('--engine', default='local', metavar='NAME',
                      help='local (the default), ray, or ray:ADDRESS of a cluster')
  parser.add_argument('--workers', type=int, default=1, metavar='N', help='processes of ray')
  parser.add_argument('--gpus-per-worker', type=int, default=0, metavar='N',
                      help='of ray, where a stage runs a model of kind jaxgen or tower')
  parser.add_argument('--model', action='append', default=[], metavar='NAME=KIND:WHAT',
                      help='what a model of the recipe is, as captions=chat:MODEL@URL; may be '
                      'given several times')
  parser.add_argument('--against', action='append', default=[], metavar='BENCHMARK=FOLDER',
                      help='keep out prompts and images of a benchmark whose files are in FOLDER; '
                      'may be given several times')
  parser.add_argument('--fetch', default='', metavar='AGENT', help='allow recipes to ask addresses '
                      'of the web, and say who asks, as "my-crawler (me@example.org)"')
  parser.add_argument('--licence', default='', help='of inputs that say nothing themselves')


def _curate(args) -> None:
  from jaxgen.curation.commands import curate
  from jaxgen.curation.engine import Job
  models = dict(word.split('=', 1) for word in args.model if '=' in word)
  if len(models) != len(args.model):
    raise user_error('--model', args.model, 'write NAME=KIND:WHAT, once for each name')
  if args.workers > 1 and args.engine == 'local':
    raise user_error('--workers', args.workers, 'local is one process; add --engine=ray')
  if args.gpus_per_worker and args.engine == 'local':
    raise user_error('--gpus-per-worker', args.gpus_per_worker, 'local has all GPUs of this '
                     'machine; add --engine=ray to share them out')
  curate(Job(args.recipe, args.source, args.out, tuple(models.items()), args.licence,
             _known(args.against), args.fetch, args.workers), args.engine,
         args.gpus_per_worker)


def _known(against: Sequence[str]):
  """Fingerprints of all benchmarks that are named."""
  from jaxgen.curation.leakage import Known
  known = Known()
  for word in against:
    name, sign, folder = word.partition('=')
    if not (name and sign and folder):
      raise user_error('--against', word, 'write BENCHMARK=FOLDER, as geneval=data/geneval')
    from jaxgen.evaluation.benchmarks.registry import benchmark
    from jaxgen.evaluation.benchmarks.registry import read_items
    with tempfile.TemporaryDirectory() as images:
      known.add(name, [(item.key, (item.text, item.wording), (*item.source, *item.reference))
                       for item in read_items(benchmark(name), folder, images)])
  return known
