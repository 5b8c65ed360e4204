"""Flags of evaluation on the command line; imports no library before a command runs."""

from jaxgen.core.errors import user_error
from jaxgen.core.limits import check_range


def add_benchmark(parser) -> None:
  """Those of ``jaxgen evaluate`` that are about published benchmarks."""
  parser.add_argument('--benchmark', default='', metavar='NAME',
                      help='instead: draw a published benchmark into --out, and score it; without '
                      '--workdir only score it (docs/evaluation.md)')
  parser.add_argument('--data', default='', metavar='DIR', help='files of the benchmark; '
                      'data/NAME if not given')
  parser.add_argument('--out', metavar='DIR')
  parser.add_argument('--limit', type=int, default=0, metavar='N', help='items of each group')
  parser.add_argument('--size', default='', metavar='HxW', help='of the images')
  parser.add_argument('--steps', type=int, default=0, help="0 takes the config's")
  parser.add_argument('--guidance', type=float, help="1 is none; the config's if not given")
  parser.add_argument('--image-guidance', type=float, help='the same for images')
  parser.add_argument('--num-processes', type=int, default=1, metavar='N',
                      help='that share the work of drawing')
  parser.add_argument('--process-id', type=int, default=0, metavar='I', help='0 to N - 1')
  parser.add_argument('--prompts-file', default='', metavar='FILE',
                      help='JSON object from prompts to what is drawn in their place')
  parser.add_argument('--rewrite', default='', metavar='MODEL', help='that rewrites the prompts')
  parser.add_argument('--rewrite-rubric', default='rewrite', metavar='FILE',
                      help='what it is told to do; translate_zh is one of ours')
  parser.add_argument('--judge', default='', metavar='MODEL',
                      help='that scores, at an endpoint of OpenAI\'s type; OPENAI_API_KEY')
  parser.add_argument('--judge-url', default='', metavar='URL', help='OPENAI_BASE_URL if not given')
  parser.add_argument('--judge-options', default='', metavar='JSON', help='fields of each call')
  parser.add_argument('--judge-prices', default='', metavar='READ:WRITTEN',
                      help='dollars for a million tokens, to tell what scoring costs')
  parser.add_argument('--rubrics', default='', metavar='DIR', help='files in place of our rubrics')
  parser.add_argument('--replay', action='store_true', help='score the replies that are on disk')
  parser.add_argument('--concurrency', type=int, default=16, metavar='N', help='calls at once')
  parser.add_argument('--detector', default='', metavar='COMMAND',
                      help='that finds objects for GenEval; mask2former is the one of [eval]')
  parser.add_argument('--embeddings', default='', metavar='FILE',
                      help='JSON: item -> dino, clip_i, clip_t, for DreamBench')
  parser.add_argument('--against', default='', metavar='DIR',
                      help="instead: win rates against another model's documents of OpenING")
  parser.add_argument('--compare', default='', metavar='DIRS',
                      help='instead: one page of several results, with commas')


def run_benchmark(args) -> None:
  """``jaxgen evaluate --benchmark`` and ``--compare``."""
  from jaxgen.evaluation.benchmarks import commands
  from jaxgen.evaluation.benchmarks.detections import MASK2FORMER
  if args.out is None:
    raise user_error('--out', None, 'name a folder for the results')
  if args.compare:
    from jaxgen.evaluation.benchmarks.pages import write_comparison
    print(write_comparison(args.compare.split(','), args.out))
    return
  check_range('--num-processes', args.num_processes, 1, None)
  check_range('--process-id', args.process_id, 0, args.num_processes - 1)
  commands.evaluate_benchmark(
      args.benchmark, args.data, args.out, workdir=args.workdir or '', weights=args.weights,
      preset=args.preset, size=args.size, limit=args.limit, seed=args.seed,
      steps=args.steps, guidance=args.guidance, image_guidance=args.image_guidance,
      share=(args.process_id, args.num_processes), prompts_file=args.prompts_file,
      rewrite=args.rewrite, rewrite_rubric=args.rewrite_rubric, judging=commands.Judging(
          model=args.judge, url=args.judge_url, rubrics=args.rubrics, replay=args.replay,
          concurrency=args.concurrency, options=args.judge_options, prices=args.judge_prices,
          detector=MASK2FORMER if args.detector == 'mask2former' else args.detector,
          embeddings=args.embeddings, against=args.against))


def add_study(commands, command) -> None:
  """``jaxgen study make`` and ``score``; ``command`` adds one to a parser."""
  parser = commands.add_parser('study', help='ask people: a page with methods hidden',
                               allow_abbrev=False)
  ways = parser.add_subparsers(metavar='make|score', required=True)
  make = command(ways, 'make', _make_study, 'write the page of a study, and its key')
  make.add_argument('--results', action='append', default=[], metavar='METHOD=DIR',
                    help='what a method drew of one benchmark; once for each')
  make.add_argument('--out', required=True, metavar='DIR')
  make.add_argument('--items', type=int, default=20, metavar='N', help='that are shown')
  make.add_argument('--participants', type=int, default=50, metavar='N')
  make.add_argument('--seed', type=int, default=0)
  score = command(ways, 'score', _score_study, 'aggregate the ratings of a study')
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
