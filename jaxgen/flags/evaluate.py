"""``jaxgen evaluate``."""

from jaxgen.core.errors import user_error
from jaxgen.core.limits import check_range
from jaxgen.flags import shared
from jaxgen.flags.sample import GIVEN


def add(commands) -> None:
  """Adds the command."""
  parser = shared.command(commands, 'evaluate', _evaluate,
                          'score a run on the drawn tasks of shapes, on its fit to its own '
                          'samples, or on a published benchmark',
                          overridable=lambda args: bool(args.base))
  shared.add_origin(parser)
  parser.add_argument('--images-per-prompt', type=int, default=4, metavar='N')
  parser.add_argument('--prompts', type=int, default=32, metavar='N', help='prompts of each task')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--untrained', action='store_true',
                      help='also score the same system with random weights')
  parser.add_argument('--tasks', default='', metavar='NAMES',
                      help='drawn tasks with commas (edit,storyboard; captions); those of the '
                           "run's own sources unless given")
  parser.add_argument('--given', default='', choices=('', *GIVEN), metavar='ROLE',
                      help='give the image of a drawn problem in this role, one image to each '
                      'problem; source, reference or context')
  parser.add_argument('--language', default='', metavar='NAME',
                      help="word drawn problems in en or zh alone; the sources' unless given")
  parser.add_argument('--fit', type=int, default=0, metavar='N',
                      help='instead: PSNR of the targets of the first N training samples, drawn '
                      'again, and with the images or the caption of another sample')
  parser.add_argument('--held-out', type=int, default=0, metavar='N',
                      help='instead: PSNR of the outputs of N held-out samples of each source, '
                      'beside that of copying their first image')
  _add_benchmark(parser)
  shared.add_preset(parser)
  shared.add_weights(parser)


def _add_benchmark(parser) -> None:
  parser.add_argument('--benchmark', default='', metavar='NAME',
                      help='instead: draw a published benchmark into --out, and score it; without '
                      '--workdir or --base only score it (docs/evaluation.md)')
  parser.add_argument('--data', metavar='DIR', help='files of the benchmark; '
                      'data/NAME if not given')
  parser.add_argument('--out', metavar='DIR')
  parser.add_argument('--limit', type=int, default=0, metavar='N', help='items of each group')
  parser.add_argument('--size', default='', metavar='HxW', help='of the images')
  shared.add_drawing(parser)
  shared.add_answers(parser)
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
  parser.add_argument('--dino', default='', metavar='PATH',
                      help='folder or hub id of a DINO, which scores DreamBench and storyboards')
  parser.add_argument('--clip', default='', metavar='PATH', help='and of a CLIP')
  parser.add_argument('--masks', default='', metavar='COMMAND',
                      help='that finds the foregrounds of storyboards; grounded_sam and '
                      'mask2former are those of [eval], with flags: "grounded_sam --text=dog."')
  parser.add_argument('--allow-leaks', action='store_true',
                      help='draw although the run was trained on items of the benchmark')
  parser.add_argument('--embeddings', default='', metavar='FILE',
                      help='JSON: item -> dino, clip_i, clip_t, for DreamBench')
  parser.add_argument('--against', default='', metavar='DIR',
                      help="instead: win rates against another model's documents of OpenING")
  parser.add_argument('--compare', default='', metavar='DIRS',
                      help='instead: one page of several results, with commas')


def _evaluate(args) -> None:
  if args.benchmark or args.compare:
    _run_benchmark(args)
    return
  if args.workdir is None:
    raise user_error('--workdir', None, 'name the run')
  if args.base:
    raise user_error('--base', args.base, 'draws a --benchmark; name one')
  from etils import epath
  from jaxgen.checkpoints.weights import read_config
  from jaxgen.operations import lock
  read_config(args.workdir)  # before the lock would make a folder
  with lock.held(epath.Path(args.workdir), lock.EVALUATION):
    _score(args)


def _score(args) -> None:
  if args.held_out:
    from jaxgen.evaluation.held_out import evaluate_held_out
    evaluate_held_out(args.workdir, args.held_out, seed=args.seed, weights=args.weights,
                      preset=args.preset)
    return
  if args.fit:
    from jaxgen.evaluation.fit import evaluate_fit
    evaluate_fit(args.workdir, args.fit, seed=args.seed, weights=args.weights,
                 preset=args.preset)
    return
  from jaxgen.evaluation.evaluate import evaluate
  evaluate(args.workdir, prompts=args.prompts, images_per_prompt=args.images_per_prompt,
           seed=args.seed, weights=args.weights, preset=args.preset, untrained=args.untrained,
           tasks=args.tasks, given=args.given, language=args.language)


def _run_benchmark(args) -> None:
  from jaxgen.evaluation.benchmarks import commands
  if args.out is None:
    raise user_error('--out', None, 'name a folder for the results')
  if args.compare:
    from jaxgen.evaluation.benchmarks.pages import write_comparison
    print(write_comparison(args.compare.split(','), args.out))
    return
  check_range('--num-processes', args.num_processes, 1, None)
  check_range('--process-id', args.process_id, 0, args.num_processes - 1)
  commands.evaluate_benchmark(
      args.benchmark, args.data or '', args.out,
      open_origin=shared.origin(args, required=False),
      answers=shared.answers(args), size=args.size, limit=args.limit, seed=args.seed,
      steps=args.steps, guidance=args.guidance, image_guidance=args.image_guidance,
      share=(args.process_id, args.num_processes), prompts_file=args.prompts_file,
      rewrite=args.rewrite, rewrite_rubric=args.rewrite_rubric, allow_leaks=args.allow_leaks,
      judging=commands.Judging(
          model=args.judge, url=args.judge_url, rubrics=args.rubrics, replay=args.replay,
          concurrency=args.concurrency, options=args.judge_options, prices=args.judge_prices,
          detector=args.detector, masks=args.masks,
          towers={name: path for name, path in (('dino', args.dino), ('clip', args.clip)) if path},
          embeddings=args.embeddings, against=args.against))
