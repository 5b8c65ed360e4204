"""``jaxgen convert``."""

from jaxgen.core.errors import user_error
from jaxgen.flags import shared


def add(commands) -> None:
  """Adds the command."""
  ways = shared.group(commands, 'convert', 'export|import|inspect',
                      'PyTorch checkpoints, both ways')
  export = shared.command(ways, 'export', _export,
                          'write a run as diffusers and transformers folders')
  export.add_argument('--workdir', required=True, metavar='DIR', help='a trained run')
  export.add_argument('--out', required=True, metavar='DIR', help='a folder for each model')
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
  shared.add_push(export)
  shared.add_weights(export)
  import_ = shared.command(ways, 'import', _import, 'read such a folder as weights for init_from')
  import_.add_argument('--path', required=True, metavar='PATH',
                       help='a folder or file, here or in a bucket, or owner/name on the hub')
  import_.add_argument('--out', required=True, metavar='DIR', help='the weights folder')
  import_.add_argument('--base', default='', metavar='PATH',
                       help='of adapters: the model that they belong to')
  inspect = shared.command(ways, 'inspect', _inspect_model,
                           'say what a model is and what does not fit, from its headers alone')
  inspect.add_argument('path', metavar='PATH', help='as --path of import')
  inspect.add_argument('--json', default='', metavar='FILE', help='write all names and sizes there')


def _export(args) -> None:
  if args.license and not args.push_to:
    raise user_error('--license', args.license, 'is of the model card; give --push-to')
  if not args.push_to:
    _write(args)
    return
  from jaxgen.conversion.publishing import push_export
  from jaxgen.operations import hub
  client = hub.opened(args.push_to, args.out)  # before anything is written
  _write(args)
  print(push_export(client, args.out, args.workdir, args.push_to, args.license))


def _write(args) -> None:
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
