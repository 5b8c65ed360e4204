"""``jaxgen sample``."""

import sys

from jaxgen.core.errors import user_error
from jaxgen.flags import shared

# Images that a request can be given, by their roles.
GIVEN = {'source': 'image to edit', 'reference': 'image whose content to use',
         'context': 'image that came before'}
# Flags of answers to dialogues, with their defaults.
ANSWERS = {'images': 0, 'max_images': 8, 'max_tokens': 512, 'temperature': 0.0, 'top_p': 1.0}


def add(commands) -> None:
  """Adds the command."""
  parser = shared.command(commands, 'sample', _sample,
                          'draw images from texts and images, as PNG files',
                          overridable=lambda args: bool(args.base))
  parser.add_argument('--workdir', metavar='DIR', help='a trained run')
  parser.add_argument('--base', default='', metavar='PATH',
                      help='instead: a published pipeline, its folder or owner/name on the hub')
  parser.add_argument('--lora', action='append', default=[], metavar='FILE[:WEIGHT]',
                      help='adapters on top of the model; may be given several times')
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
  _add_dialogue(parser)
  parser.add_argument('--out', required=True, metavar='DIR')
  parser.add_argument('--seed', type=int, default=0)
  shared.add_drawing(parser)
  shared.add_preset(parser)
  shared.add_weights(parser)


def _add_dialogue(parser) -> None:
  parser.add_argument('--dialogue', default='', metavar='FILE',
                      help='instead: answer this dialogue with texts and images')
  texts = dict(
      images='of its answer: exactly N, or with 0 as many as the model begins',
      max_images='the most that it may begin',
      max_tokens='of each text; 0 writes none, and --images follow one another',
      temperature='0 writes the likeliest token',
      top_p='share of the probability that tokens are drawn from')
  for name, default in ANSWERS.items():
    parser.add_argument(f'--{name.replace("_", "-")}', type=type(default), default=default,
                        metavar='N' if isinstance(default, int) else 'X',
                        help=f'{texts[name]}; {default:g} unless given')


def _sample(args) -> None:
  if args.dialogue:
    _answer(args)
    return
  for name, unset in ANSWERS.items():
    if vars(args)[name] != unset:
      raise user_error(f'--{name.replace("_", "-")}', vars(args)[name], 'is of the answer to a '
                       'dialogue; give a --dialogue, or drop it')
  from jaxgen.sampling.commands import sample
  if bool(args.workdir) == bool(args.base):
    raise user_error('--workdir', args.workdir, 'name either a trained run, or a published '
                     'pipeline by --base')
  sample(lambda: _origin(args), args.out, prompts=args.prompt, prompts_file=args.prompts_file,
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
         **{name: vars(args)[name] for name in ANSWERS})


def _origin(args):
  """What ``sample`` draws from."""
  from jaxgen.conversion import adapters
  from jaxgen.sampling.load import published
  from jaxgen.sampling.load import trained
  if not args.base:
    return trained(args.workdir, args.weights, args.preset,
                   adapters.on_run(args.lora, args.workdir))
  from jaxgen.config import overridden
  from jaxgen.conversion.pipelines import describe
  from jaxgen.conversion.pipelines import open_pipeline
  from jaxgen.conversion.pretrained import read_external
  pipeline = open_pipeline(args.base)
  print('\n'.join(describe(pipeline)), file=sys.stderr, flush=True)
  return published(overridden(pipeline.config, args.overrides), read_external, args.preset,
                   adapters.opened(args.lora, pipeline.models))
