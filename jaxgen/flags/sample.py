"""``jaxgen sample``."""

from jaxgen.core.errors import user_error
from jaxgen.flags import shared

# Images that a request can be given, by their roles.
GIVEN = {'source': 'image to edit', 'reference': 'image whose content to use',
         'context': 'image that came before'}


def add(commands) -> None:
  """Adds the command."""
  parser = shared.command(commands, 'sample', _sample,
                          'draw images from texts and images, as PNG files',
                          overridable=lambda args: bool(args.base))
  shared.add_origin(parser)
  parser.add_argument('--prompt', action='append', default=[], help='may be given several times')
  parser.add_argument('--prompts-file', metavar='FILE', help='one prompt in each line')
  for role, text in GIVEN.items():
    parser.add_argument(f'--{role}', action='append', default=[], metavar='FILE',
                        help=f'{text}; may be given several times, for every prompt')
  parser.add_argument('--size', default='', metavar='HxW', help="of the images; the config's "
                      'if not given')
  parser.add_argument('--outputs', type=int, default=1, metavar='N', help='images of each request')
  parser.add_argument('--task', default='auto', metavar='NAME',
                      help='how prompt and images are worded; read from their roles if not given')
  parser.add_argument('--job', default='', metavar='FILE', help='requests as a JSON list instead')
  parser.add_argument('--dialogue', default='', metavar='FILE',
                      help='instead: answer this dialogue with texts and images')
  shared.add_answers(parser)
  parser.add_argument('--out', required=True, metavar='DIR', help='folder for the images')
  parser.add_argument('--seed', type=int, default=0, help='of the noise')
  shared.add_drawing(parser)
  shared.add_preset(parser)
  shared.add_weights(parser)


def _sample(args) -> None:
  if args.dialogue:
    _answer(args)
    return
  for name, value in shared.answers(args).items():
    raise user_error(f'--{name.replace("_", "-")}', value, 'is of the answer to a dialogue; give a '
                     '--dialogue, or drop it')
  from jaxgen.sampling.commands import sample
  sample(shared.origin(args), args.out, prompts=args.prompt, prompts_file=args.prompts_file,
         job=args.job, given={role: vars(args)[role] for role in GIVEN}, size=args.size,
         steps=args.steps, outputs=args.outputs, task=args.task, seed=args.seed,
         guidance=args.guidance, image_guidance=args.image_guidance)


def _answer(args) -> None:
  if not args.workdir:
    raise user_error('--workdir', None, 'name the trained run that is to answer')
  if args.lora:
    raise user_error('--lora', args.lora, 'is for drawing; a run answers dialogues as it is, so '
                     'drop it')
  for name, unset in (*dict.fromkeys(('prompt', *GIVEN), []).items(), ('prompts_file', None),
                      ('job', ''), ('outputs', 1), ('task', 'auto')):
    if vars(args)[name] != unset:
      raise user_error('--dialogue', args.dialogue, 'says itself what is given and asked; drop '
                       f'--{name.replace("_", "-")}')
  from jaxgen.sampling.commands import answer
  answer(args.workdir, args.out, file=args.dialogue, size=args.size, seed=args.seed,
         weights=args.weights, preset=args.preset, guidance=args.guidance,
         image_guidance=args.image_guidance, steps=args.steps,
         **shared.answers(args))
