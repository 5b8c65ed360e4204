"""What the commands share."""

import argparse
import sys
from collections.abc import Callable

from jaxgen.core.errors import user_error

# Flags of answers to dialogues, with their defaults.
ANSWERS = {'images': 0, 'max_images': 8, 'max_tokens': 512, 'temperature': 0.0, 'top_p': 1.0}


def command(commands, name: str, run: Callable[[argparse.Namespace], None], text: str,
            overridable: Callable[[argparse.Namespace], bool] = lambda args: 'config' in args
            ) -> argparse.ArgumentParser:
  """Adds a command.

  Args:
    commands: where to.
    name: of the command.
    run: runs it.
    text: its help.
    overridable: whether it takes fields of the config, as ``--config.train.steps=10``.
  """
  parser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
  parser.set_defaults(run=run, overridable=overridable)
  return parser


def group(commands, name: str, ways: str, text: str):
  """Adds a command of several: ``ways`` are their names."""
  parser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
  return parser.add_subparsers(metavar=ways, required=True)


def add_config(parser: argparse.ArgumentParser) -> None:
  """Adds ``--config``."""
  parser.add_argument('--config', required=True, metavar='FILE',
                      help='config file, or FILE:argument for its get_config(argument)')


def add_processes(parser: argparse.ArgumentParser) -> None:
  """Adds what a process must know of the others."""
  parser.add_argument('--coordinator', default='', metavar='HOST:PORT',
                      help='of process 0; or auto (the default), none, or the name of a launcher')
  parser.add_argument('--num-processes', type=int, default=0, metavar='N',
                      help='of the run; 0 asks the launcher')
  parser.add_argument('--process-id', type=int, default=-1, metavar='I', help='0 to N - 1')


def processes(args: argparse.Namespace) -> dict[str, str | int]:
  """What ``add_processes`` has read."""
  return dict(coordinator=args.coordinator, num_processes=args.num_processes,
              process_id=args.process_id)


def add_drawing(parser: argparse.ArgumentParser) -> None:
  """Adds ``--steps`` and the scales of guidance."""
  parser.add_argument('--steps', type=int, default=0, help="0 takes the config's")
  parser.add_argument('--guidance', type=float, help="1 is none; the config's if not given")
  parser.add_argument('--image-guidance', type=float, help='the same for images')


def add_answers(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of answers to dialogues."""
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


def answers(args: argparse.Namespace) -> dict[str, int | float]:
  """Those of ``add_answers`` that were given."""
  return {name: vars(args)[name] for name, unset in ANSWERS.items() if vars(args)[name] != unset}


def add_preset(parser: argparse.ArgumentParser) -> None:
  """Adds ``--preset``."""
  parser.add_argument('--preset', default='', metavar='NAME',
                      help="settings that the system's authors draw with; other flags win over it")


def add_weights(parser: argparse.ArgumentParser) -> None:
  """Adds ``--weights``."""
  parser.add_argument('--weights', default='ema', choices=('ema', 'params'),
                      help='ema (where the run keeps one) or params')


def add_push(parser: argparse.ArgumentParser, required: bool = False) -> None:
  """Adds ``--push-to`` and ``--license``."""
  parser.add_argument('--push-to', required=required, default='', metavar='OWNER/NAME',
                      help='a repository of the Hugging Face hub, which gets it with a model card')
  parser.add_argument('--license', default='', metavar='ID', help='of the weights, for the card, '
                      'as the hub abbreviates it (apache-2.0); none is stated unless given')


def add_origin(parser: argparse.ArgumentParser) -> None:
  """Adds what is drawn from: ``--workdir`` or ``--base``, and ``--lora``."""
  parser.add_argument('--workdir', metavar='DIR', help='a trained run')
  parser.add_argument('--base', default='', metavar='PATH',
                      help='instead: a published pipeline, its folder or owner/name on the hub')
  parser.add_argument('--lora', action='append', default=[], metavar='FILE[:WEIGHT]',
                      help='adapters on top of the model; may be given several times')


def origin(args: argparse.Namespace, required: bool = True):
  """A function that finds what ``add_origin`` has read, a ``jaxgen.sampling.load.Origin``.

  Args:
    args: the flags.
    required: whether there must be one; None is returned where there need not and is none.

  Raises:
    UserError: flags that do not go together.
  """
  named = bool(args.workdir) + bool(args.base)
  if named > 1 or (required and not named):
    raise user_error('--workdir', args.workdir, 'name either a trained run, or a published '
                     'pipeline by --base')
  if args.lora and not named:
    raise user_error('--lora', args.lora, 'adapters are added to a model; name it by --workdir or '
                     '--base')
  return (lambda: _origin(args)) if named else None


def _origin(args: argparse.Namespace):
  from jaxgen.conversion import adapters
  from jaxgen.sampling.load import published
  from jaxgen.sampling.load import trained
  if not args.base:
    return trained(args.workdir, args.weights, args.preset,
                   adapters.on_run(args.lora, args.workdir), dict(lora=args.lora))
  from jaxgen.config import overridden
  from jaxgen.conversion.pipelines import describe
  from jaxgen.conversion.pipelines import open_pipeline
  from jaxgen.conversion.pretrained import read_external
  pipeline = open_pipeline(args.base)
  print('\n'.join(describe(pipeline)), file=sys.stderr, flush=True)
  return published(overridden(pipeline.config, args.overrides), read_external, args.preset,
                   adapters.opened(args.lora, pipeline.models),
                   dict(base=args.base, lora=args.lora, overrides=args.overrides))
