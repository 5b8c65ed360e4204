"""The command line: ``jaxgen train | finetune | sample | evaluate | plan | convert | data ...``.

A command imports what it needs when it runs, so that ``--help`` is immediate and nothing but
training loads TensorFlow. Mistakes of the user end in one line and exit code 1; any other
exception is a defect and keeps its traceback.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from jaxgen.core import quiet
from jaxgen.core.errors import UserError
from jaxgen.core.errors import user_error
from jaxgen.core.limits import MAX_GUIDANCE
from jaxgen.core.limits import MAX_OUTPUTS
from jaxgen.core.limits import MAX_SEED
from jaxgen.core.limits import MAX_SIDE
from jaxgen.core.limits import check_range
from jaxgen.finetuning import flags

OVERRIDE = '--config.'
# Flag -> least and greatest number; None is no limit.
RANGES = {
    'num_processes': (0, None), 'process_id': (-1, None), 'stopped_code': (0, 255),
    'outputs': (1, MAX_OUTPUTS), 'seed': (0, MAX_SEED), 'steps': (0, 10_000),
    'guidance': (0, MAX_GUIDANCE), 'image_guidance': (0, MAX_GUIDANCE),
    'images_per_prompt': (1, None), 'prompts': (1, None), 'fit': (0, None), 'held_out': (0, None),
    'search': (0, None), 'limit': (0, None), 'size': (0, MAX_SIDE), 'rows': (1, None),
    'rank': (1, None), 'shards': (1, None), 'vocab': (1, None), 'every': (1, None)}
# Images that a request can be given, by their roles.
GIVEN = {'source': 'image to edit', 'reference': 'image whose content to use',
         'context': 'image that came before'}
NAMED = ('config', 'workdir', 'out', 'data')


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one command; returns the exit code."""
  parser = _parser()
  args, rest = parser.parse_known_args(argv)
  strangers = [word for word in rest if not word.startswith(OVERRIDE)]
  overridable = 'config' in args or args.run is flags.run or (args.run is _sample and args.base)
  if strangers or (rest and not overridable):
    parser.error(f'unrecognised arguments: {" ".join(strangers or rest)}; '
                 f'overrides are written {OVERRIDE}section.key=value')
  args.overrides = [word.removeprefix(OVERRIDE) for word in rest]
  quiet.settle(os.environ)
  try:
    _check(vars(args))
    args.run(args)
  except UserError as error:
    print(f'jaxgen: {error}', file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    return 130
  return 0


def _check(args: dict[str, Any]) -> None:
  """Refuses numbers out of range, and an empty word where a file or folder must be named."""
  for name, (least, most) in RANGES.items():
    if isinstance(args.get(name), int | float):
      check_range(f'--{name.replace("_", "-")}', args[name], least, most)
  for name in NAMED:
    if args.get(name) == '':
      # An empty path would be the current folder.
      raise user_error(f'--{name}', '', 'name a file or folder')


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
      prog='jaxgen', allow_abbrev=False,
      description='Train, run and ship unified multimodal image generators.',
      epilog=f'Commands with --config, finetune, and sample with --base, also take {OVERRIDE}'
      'section.key=value, any number of times.')
  commands = parser.add_subparsers(title='commands', metavar='COMMAND', required=True)
  _add_train(commands)
  _add_finetune(commands)
  _add_sample(commands)
  _add_evaluate(commands)
  _add_plan(commands)
  _add_convert(commands)
  _add_data(commands)
  _add_report(commands)
  return parser


def _command(commands, name: str, run, text: str) -> argparse.ArgumentParser:
  parser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
  parser.set_defaults(run=run)
  return parser


def _add_train(commands) -> None:
  parser = _command(commands, 'train', _train, 'train, or resume the run that the workdir holds')
  parser.add_argument('--config', required=True, metavar='FILE',
                      help='config file, or FILE:argument for its get_config(argument)')
  parser.add_argument('--workdir', required=True, metavar='DIR')
  _add_processes(parser)
  parser.add_argument('--stopped-code', type=int, default=0, metavar='CODE',
                      help='exit code after SIGTERM, for launchers that start such runs again')
  parser.add_argument('--profile', default='', metavar='FROM:TO',
                      help='trace these steps for xprof, into plugins/profile of the workdir')


def _add_processes(parser) -> None:
  parser.add_argument('--coordinator', default='', metavar='HOST:PORT',
                      help='of process 0; or auto (the default), none, or the name of a launcher')
  parser.add_argument('--num-processes', type=int, default=0, metavar='N')
  parser.add_argument('--process-id', type=int, default=-1, metavar='I', help='0 to N - 1')


def _processes(args) -> dict[str, str | int]:
  return dict(coordinator=args.coordinator, num_processes=args.num_processes,
              process_id=args.process_id)


def _train(args) -> None:
  from jaxgen.config import load_config
  from jaxgen.config import validate
  from jaxgen.operations.trace import parse_steps
  profile = parse_steps(args.profile)
  config = load_config(args.config, args.overrides)
  validate(config)  # before anything that takes long to import
  from jaxgen.conversion.pretrained import read_external
  from jaxgen.training.loop import train
  if not train(config, args.workdir, _processes(args), read_external, profile):
    sys.exit(args.stopped_code)


def _add_finetune(commands) -> None:
  flags.add(_command(commands, 'finetune', flags.run, 'fine-tune a published model on your own '
                     'images, or go on with the run that the workdir holds'))


def _add_sample(commands) -> None:
  parser = _command(commands, 'sample', _sample, 'draw images from texts and images, as PNG files')
  parser.add_argument('--workdir', metavar='DIR', help='a trained run')
  parser.add_argument('--base', default='', metavar='PATH',
                      help='instead: a published pipeline, its folder or owner/name on the hub')
  parser.add_argument('--lora', action='append', default=[], metavar='FILE[:WEIGHT]',
                      help='adapters on top of --base; may be given several times')
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
  parser.add_argument('--out', required=True, metavar='DIR')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--steps', type=int, default=0, help="0 takes the config's")
  parser.add_argument('--guidance', type=float, help="1 is none; the config's if not given")
  parser.add_argument('--image-guidance', type=float, help='the same for images')
  _add_preset(parser)
  _add_weights(parser)


def _sample(args) -> None:
  from jaxgen.sampling.commands import sample
  if bool(args.workdir) == bool(args.base):
    raise user_error('--workdir', args.workdir, 'name either a trained run, or a published '
                     'pipeline by --base')
  if args.lora and not args.base:
    raise user_error('--lora', args.lora, 'adapters are added to a published model; name it by '
                     '--base')
  sample(lambda: _origin(args), args.out, prompts=args.prompt, prompts_file=args.prompts_file,
         job=args.job, given={role: vars(args)[role] for role in GIVEN}, size=args.size,
         steps=args.steps, outputs=args.outputs, task=args.task, seed=args.seed,
         guidance=args.guidance, image_guidance=args.image_guidance)


def _origin(args):
  """What ``sample`` draws from."""
  from jaxgen.sampling.load import published
  from jaxgen.sampling.load import trained
  if not args.base:
    return trained(args.workdir, args.weights, args.preset)
  from jaxgen.config import overridden
  from jaxgen.conversion import adapters
  from jaxgen.conversion.pipelines import describe
  from jaxgen.conversion.pipelines import open_pipeline
  from jaxgen.conversion.pretrained import read_external
  pipeline = open_pipeline(args.base)
  print('\n'.join(describe(pipeline)), file=sys.stderr, flush=True)
  return published(overridden(pipeline.config, args.overrides), read_external, args.preset,
                   adapters.opened(args.lora, pipeline.models))


def _add_evaluate(commands) -> None:
  parser = _command(commands, 'evaluate', _evaluate,
                    'score a run on the drawn tasks of shapes, or on its fit to its own pairs')
  parser.add_argument('--workdir', required=True, metavar='DIR')
  parser.add_argument('--images-per-prompt', type=int, default=4, metavar='N')
  parser.add_argument('--prompts', type=int, default=32, metavar='N', help='prompts of each task')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--untrained', action='store_true',
                      help='also score the same system with random weights')
  parser.add_argument('--tasks', default='', metavar='NAMES',
                      help='drawn tasks with commas (edit,storyboard; captions); those of the '
                           "run's own sources unless given")
  parser.add_argument('--fit', type=int, default=0, metavar='N',
                      help='instead: PSNR of the first N training images drawn from their captions')
  parser.add_argument('--held-out', type=int, default=0, metavar='N',
                      help='instead: PSNR of the outputs of N held-out samples of each source, '
                      'beside that of copying their first image')
  _add_preset(parser)
  _add_weights(parser)


def _evaluate(args) -> None:
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
           tasks=args.tasks)


def _add_plan(commands) -> None:
  parser = _command(commands, 'plan', _plan,
                    'compile the train step for hardware that is not there; say whether it fits')
  parser.add_argument('--config', required=True, metavar='FILE',
                      help='config file, or FILE:argument for its get_config(argument)')
  parser.add_argument('--topology', required=True, metavar='NAME',
                      help='tpu:v5p:4x4x8, tpu:v5p:4x4x8*2 (slices), gpu:h100:8x8 (nodes x GPUs)')
  parser.add_argument('--json', default='', metavar='FILE', help='write the numbers there too')
  parser.add_argument('--search', type=int, default=0, nargs='?', const=6, metavar='N',
                      help='compile N (6) meshes, pieces and remat policies; print the best')


def _plan(args) -> None:
  os.environ['JAX_PLATFORMS'] = 'cpu'  # nothing runs; a device of this machine stays free
  from jaxgen.config import load_config
  config = load_config(args.config, args.overrides)
  from jaxgen.planning.commands import plan
  plan(config, args.topology, json_file=args.json, tries=args.search)


def _add_convert(commands) -> None:
  parser = commands.add_parser('convert', help='PyTorch checkpoints, both ways',
                               allow_abbrev=False)
  ways = parser.add_subparsers(metavar='export|import|inspect', required=True)
  export = _command(ways, 'export', _export, 'write a run as diffusers and transformers folders')
  export.add_argument('--workdir', required=True, metavar='DIR')
  export.add_argument('--out', required=True, metavar='DIR')
  export.add_argument('--layout', default='', metavar='NAME',
                      help='original: tensor names of the original releases, where there are such')
  export.add_argument('--lora', default='merge', choices=('merge', 'peft', 'diffusers', 'comfyui'),
                      help='adapters: added to their kernels, or written in place of their model')
  export.add_argument('--pipeline', action='store_true', help='a whole pipeline of diffusers: what '
                      'was trained, and the rest of the one that the run began with')
  export.add_argument('--base', default='', metavar='PATH', help='of --pipeline: that pipeline, '
                      'where the config of the run does not name it')
  export.add_argument('--unchanged', default='copy', choices=('copy', 'link'),
                      help='of --pipeline: weights that were not trained')
  _add_weights(export)
  import_ = _command(ways, 'import', _import, 'read such a folder as weights for init_from')
  import_.add_argument('--path', required=True, metavar='PATH',
                       help='a folder or file, here or in a bucket, or owner/name on the hub')
  import_.add_argument('--out', required=True, metavar='DIR')
  import_.add_argument('--base', default='', metavar='PATH',
                       help='of adapters: the model that they belong to')
  inspect = _command(ways, 'inspect', _inspect_model,
                     'say what a model is and what does not fit, from its headers alone')
  inspect.add_argument('path', metavar='PATH', help='as --path of import')
  inspect.add_argument('--json', default='', metavar='FILE', help='write all names and sizes there')


def _export(args) -> None:
  if args.pipeline:
    if args.lora != 'merge' or args.layout:
      raise user_error('--pipeline', None, 'merges adapters and has the names of diffusers; leave '
                       'out --lora and --layout')
    from jaxgen.conversion.pipeline_export import export_pipeline
    print('\n'.join(export_pipeline(args.workdir, args.out, args.weights, base=args.base,
                                    unchanged=args.unchanged)))
    return
  from jaxgen.conversion.commands import export
  written = export(args.workdir, args.out, weights=args.weights, layout=args.layout,
                   lora=args.lora)
  for model in written.values():
    print(f'{model["path"]}: {model["class"]}, {model["parameters"]:,} parameters')


def _import(args) -> None:
  from jaxgen.conversion.commands import import_
  for group, section in import_(args.path, args.out, args.base).items():
    print(f'{args.out}: {group}, family {section["family"]}')


def _inspect_model(args) -> None:
  from jaxgen.conversion import inspection
  from jaxgen.conversion import pipelines
  if pipelines.is_pipeline(args.path):
    pipeline = pipelines.open_pipeline(args.path)
    print('\n'.join(pipelines.describe(pipeline)))
    if args.json:
      inspection.write_json({pipeline.kind.models[group]: inspection.described(model)
                             for group, model in pipeline.models.items()}, args.json)
    return
  found = inspection.inspect(args.path)
  if args.json:
    inspection.write_json(found, args.json)
  print('\n'.join(inspection.lines(found)))
  if any(found[kind] for kind in inspection.KINDS):
    raise user_error(found['path'], None, 'would not load, see above; use a checkpoint of this '
                     'family and these sizes')


def _add_data(commands) -> None:
  parser = commands.add_parser('data', help='look into data, pack it, train tokenizers',
                               allow_abbrev=False)
  ways = parser.add_subparsers(metavar='inspect|show|pack|tokenizer|cache', required=True)
  inspect = _command(ways, 'inspect', _inspect_data,
                     'count tasks, sizes and captions; name files that are broken')
  show = _command(ways, 'show', _show, 'print rows exactly as the models of a config get them')
  pack = _command(ways, 'pack', _pack, 'write a source as ArrayRecord files')
  tokenizer = _command(ways, 'tokenizer', _tokenizer, 'train a small tokenizer on its captions')
  for command in (inspect, pack, tokenizer):
    command.add_argument('--kind', default='auto', help='of source; auto (the default) looks at '
                         'the path; or the name of a public set')
    command.add_argument('--path', default='', help='folder, file, glob or TFDS name; of '
                         'shapes the drawn task, captions if not given')
    command.add_argument('--split', default='train', choices=('train', 'test', 'validation'))
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
    command.add_argument('--out', required=True, metavar='DIR')
  inspect.add_argument('--buckets', default='canonical', metavar='NAME',
                       help='sizes of targets, as config.data.buckets')
  inspect.add_argument('--headers', action='store_true',
                       help='do not decode: fast, but files that are cut short go unnoticed')
  show.add_argument('--config', required=True, metavar='FILE',
                    help='config file, or FILE:argument for its get_config(argument)')
  show.add_argument('--rows', type=int, default=1, metavar='N', help='rows of the first batch')
  show.add_argument('--html', default='', metavar='FILE', help='the same with thumbnails')
  pack.add_argument('--shards', type=int, default=1, help='number of files')
  tokenizer.add_argument('--vocab', type=int, default=512, help='tokens at the most')
  _add_cache(ways)


def _add_cache(ways) -> None:
  parser = _command(ways, 'cache', _cache, 'encode all images of a config once, for data.cache; '
                    'run again, it adds what is missing')
  parser.add_argument('--config', required=True, metavar='FILE',
                      help='config file, or FILE:argument for its get_config(argument)')
  parser.add_argument('--out', required=True, metavar='DIR')
  parser.add_argument('--states', action='store_true', help='instead: what the denoiser is told of '
                      'all prompts, for data.states')
  parser.add_argument('--every', type=int, default=1024, metavar='N',
                      help='entries of a file: a killed process loses no more than those')
  _add_processes(parser)


def _cache(args) -> None:
  from jaxgen.config import load_config
  config = load_config(args.config, args.overrides)
  from jaxgen.conversion.pretrained import read_external
  from jaxgen.training.caching import write_cache
  from jaxgen.training.states import write_states
  write = write_states if args.states else write_cache
  write(config, args.out, _processes(args), read_external, every=args.every)


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


def _add_report(commands) -> None:
  parser = _command(commands, 'report', _report,
                    'write report.html and summary.json, or the table of an ablation')
  parser.add_argument('--workdir', required=True, metavar='DIR',
                      help='a run, or a folder of runs that follow one another')


def _report(args) -> None:
  from jaxgen.evaluation import ablation
  from jaxgen.evaluation.report import write_report
  write = ablation.write_table if ablation.seeds(args.workdir) else write_report
  print(write(args.workdir))


def _add_preset(parser) -> None:
  parser.add_argument('--preset', default='', metavar='NAME',
                      help="settings that the system's authors draw with; other flags win over it")


def _add_weights(parser) -> None:
  parser.add_argument('--weights', default='ema', choices=('ema', 'params'),
                      help='ema (where the run keeps one) or params')


if __name__ == '__main__':
  sys.exit(main())
