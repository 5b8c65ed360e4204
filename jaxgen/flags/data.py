"""``jaxgen data``."""

import os

from jaxgen.core.errors import user_error
from jaxgen.flags import shared


def add(commands) -> None:
  """Adds the command."""
  ways = shared.group(commands, 'data', 'inspect|show|pack|tokenizer|cache|leaks',
                      'look into data, pack it, train tokenizers')
  inspect = shared.command(ways, 'inspect', _inspect_data,
                           'count tasks, sizes and captions; name files that are broken')
  show = shared.command(ways, 'show', _show,
                        'print rows exactly as the models of a config get them')
  pack = shared.command(ways, 'pack', _pack, 'write a source as ArrayRecord files')
  tokenizer = shared.command(ways, 'tokenizer', _tokenizer,
                             'train a small tokenizer on its captions')
  for command in (inspect, pack, tokenizer):
    command.add_argument('--kind', default='auto', help='of source; auto (the default) looks at '
                         'the path; or the name of a public set')
    command.add_argument('--path', default='', help='folder, file, glob or TFDS name; of '
                         'shapes the drawn task, captions if not given')
    command.add_argument('--split', default='train', choices=('train', 'test', 'validation'),
                         help='of sources that have several')
    command.add_argument('--limit', type=int, default=0, help='the first records only; 0 is all')
    command.add_argument('--size', type=int, default=0, help='image side that shapes are drawn at')
    command.add_argument('--seed', type=int, default=0, help='of shapes')
    command.add_argument('--fields', action='append', default=[], metavar='OURS=THEIRS',
                         help='column or folder where the names are not recognised, as '
                         'target=after; may be given several times; of shapes settings, as '
                         'grids=2x2,3x3')
    command.add_argument('--root', default='', metavar='DIR',
                         help='that relative image paths start from')
  for command in (pack, tokenizer):
    command.add_argument('--out', required=True, metavar='DIR', help='folder to write')
  inspect.add_argument('--buckets', default='canonical', metavar='NAME',
                       help='sizes of targets, as config.data.buckets')
  inspect.add_argument('--headers', action='store_true',
                       help='do not decode: fast, but files that are cut short go unnoticed')
  shared.add_config(show)
  show.add_argument('--rows', type=int, default=1, metavar='N', help='rows of the first batch')
  show.add_argument('--html', default='', metavar='FILE', help='the same with thumbnails')
  pack.add_argument('--shards', type=int, default=1, help='number of files')
  tokenizer.add_argument('--vocab', type=int, default=512, help='tokens at the most')
  _add_cache(ways)
  _add_leaks(ways)


def _add_cache(ways) -> None:
  parser = shared.command(ways, 'cache', _cache,
                          'encode all images of a config once, for data.cache; run again, '
                          'it adds what is missing')
  shared.add_config(parser)
  parser.add_argument('--out', required=True, metavar='DIR', help='folder of the cache')
  kinds = parser.add_mutually_exclusive_group()
  kinds.add_argument('--states', action='store_true', help='instead: the conditioning of all '
                     'prompts, for data.states')
  kinds.add_argument('--image-tokens', action='store_true', help='instead: what a frozen vision '
                     'tower makes of all images, for data.image_tokens')
  parser.add_argument('--every', type=int, default=1024, metavar='N',
                      help='entries of a file: a killed process loses no more than those')
  shared.add_processes(parser)


def _add_leaks(ways) -> None:
  parser = shared.command(ways, 'leaks', _leaks,
                          'search training data for ids, prompts and near-duplicate images of a '
                          'benchmark; exit code 1 if there are any',
                          overridable=lambda args: bool(args.config))
  parser.add_argument('--config', metavar='FILE', help='whose sources are searched')
  parser.add_argument('--workdir', metavar='DIR',
                      help='instead: of a run, which keeps the result for jaxgen evaluate')
  parser.add_argument('--benchmark', required=True, metavar='NAME')
  parser.add_argument('--data', metavar='DIR',
                      help='files of the benchmark; data/NAME if not given')


def _leaks(args) -> None:
  if bool(args.config) == bool(args.workdir):
    raise user_error('--config', args.config, 'give either --config or --workdir')
  from jaxgen.evaluation.benchmarks.leaks import search_command
  if args.workdir:
    search_command(args.benchmark, args.data or '', workdir=args.workdir)
    return
  from jaxgen.config import load_config
  search_command(args.benchmark, args.data or '', config=load_config(args.config, args.overrides))


def _cache(args) -> None:
  from jaxgen.config import load_config
  config = load_config(args.config, args.overrides)
  from jaxgen.conversion.pretrained import read_external
  from jaxgen.training.caching import write_cache
  from jaxgen.training.image_tokens import write_image_tokens
  from jaxgen.training.states import write_states
  write = (write_states if args.states else write_image_tokens if args.image_tokens else
           write_cache)
  write(config, args.out, shared.processes(args), read_external, every=args.every)


def _opening(args):
  from jaxgen.data import commands
  return commands.Opening(args.kind, args.path, args.split, args.limit, args.size, args.seed,
                          commands.parse_fields(args.fields), args.root)


def _pack(args) -> None:
  from jaxgen.data import commands
  commands.pack(_opening(args), args.out, shards=args.shards)


def _inspect_data(args) -> None:
  from jaxgen.data import commands
  commands.inspect(_opening(args), buckets=args.buckets, headers=args.headers)


def _tokenizer(args) -> None:
  from jaxgen.data import commands
  commands.tokenizer(_opening(args), args.out, vocab=args.vocab)


def _show(args) -> None:
  os.environ['JAX_PLATFORMS'] = 'cpu'  # nothing runs; a device of this machine stays free
  from jaxgen.config import load_config
  from jaxgen.config import validate
  config = load_config(args.config, args.overrides)
  validate(config)
  from jaxgen.data.show import show
  from jaxgen.systems.registry import make_system
  show(config, make_system(config).layout, rows=args.rows, page=args.html)
