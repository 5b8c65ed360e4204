"""``jaxgen serve``."""

import os

from jaxgen.flags import shared

# Limits of clients -> (default, help).
LIMITS = {
    'draws': (8, "n of OpenAI's API"),
    'outputs': (4, 'images of one request in one pass'),
    'images': (4, 'given images of one request'),
    'queue': (64, 'requests that may wait; further ones are told to come again'),
    'timeout': (600.0, 'seconds that a request may take'),
    'drain': (60.0, 'seconds for what is under way when the server is stopped'),
}


def add(commands) -> None:
  """Adds the command."""
  parser = shared.command(commands, 'serve', _serve,
                          "serve a run behind OpenAI's images and chat API",
                          overridable=lambda args: bool(args.base))
  shared.add_origin(parser)
  parser.add_argument('--host', default='127.0.0.1', metavar='ADDRESS',
                      help='this machine alone unless given')
  parser.add_argument('--port', type=int, default=8000, metavar='N', help='0 is any free one')
  parser.add_argument('--api-key-file', metavar='FILE',
                      help='keys that clients need, one in each line')
  parser.add_argument('--no-demo', action='store_true', help='no web page at /')
  parser.add_argument('--name', default='', help='of the model, for clients; that of the run '
                      'unless given')
  parser.add_argument('--output-size', action='append', default=[], metavar='WIDTHxHEIGHT',
                      help='that may be asked for, may be given several times; each costs time at '
                      'the start; those of the run unless given')
  for name, (default, text) in LIMITS.items():
    parser.add_argument(f'--{name}', type=type(default), default=default, metavar='N',
                        help=f'{text}; {default:g} unless given')
  parser.add_argument('--rows', type=int, metavar='N',
                      help='rows drawn at once; those of config.sampling unless given')
  shared.add_drawing(parser)
  shared.add_preset(parser)
  shared.add_weights(parser)


def _serve(args) -> None:
  origin = shared.origin(args)
  from jaxgen.serving.commands import Place
  from jaxgen.serving.commands import serve
  from jaxgen.serving.limits import Limits
  values = {name: vars(args)[name] for name in LIMITS}
  limits = Limits(seconds=values.pop('timeout'), rows=args.rows or 0, **values)
  name = args.name or os.path.basename(os.path.normpath(args.workdir or args.base))
  flags = [f'--{flag}={value}' for flag in ('workdir', 'base', 'preset', 'weights')
           if (value := vars(args)[flag]) not in ('', None, 'ema')]
  flags += [f'--lora={adapter}' for adapter in args.lora]
  place = Place(args.host, args.port, name, args.api_key_file or '', page=not args.no_demo,
                flags=flags)
  serve(origin, place, limits,
        sizes=args.output_size, guidance=args.guidance, image_guidance=args.image_guidance,
        steps=args.steps or None)
