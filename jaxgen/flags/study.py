"""``jaxgen study``."""

from jaxgen.flags import shared


def add(commands) -> None:
  """Adds the command."""
  ways = shared.group(commands, 'study', 'make|score',
                      'ask people: a page with methods hidden')
  make = shared.command(ways, 'make', _make_study, 'write the page of a study, and its key')
  make.add_argument('--results', action='append', default=[], metavar='METHOD=DIR',
                    help='what a method drew of one benchmark; once for each')
  make.add_argument('--out', required=True, metavar='DIR', help='folder of the study')
  make.add_argument('--items', type=int, default=20, metavar='N', help='that are shown')
  make.add_argument('--participants', type=int, default=50, metavar='N',
                    help='pages to make, one for each')
  make.add_argument('--seed', type=int, default=0, help='of the order of items and methods')
  score = shared.command(ways, 'score', _score_study, 'aggregate the ratings of a study')
  score.add_argument('--study', required=True, metavar='DIR', help='--out of make')
  score.add_argument('ratings', nargs='+', metavar='FILE', help='that participants sent back')


def _make_study(args) -> None:
  from jaxgen.evaluation.study import make_study
  results = dict(given.partition('=')[::2] for given in args.results)
  print(make_study(results, args.out, items=args.items, participants=args.participants,
                   seed=args.seed))


def _score_study(args) -> None:
  from jaxgen.evaluation import study
  found = study.score_study(args.study, args.ratings)
  print('\n'.join(study.lines_of(found)))
