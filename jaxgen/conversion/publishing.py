"""Uploads a run, or what was exported of it, to the Hugging Face hub with a model card.

The card states what is known: data, stages, steps, scores and the terms of what the run was made
from. It invents nothing: what has no licence that jaxgen knows is named as such.
"""

import fnmatch
import json
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from jaxgen.checkpoints.weights import is_run
from jaxgen.checkpoints.weights import newest_step
from jaxgen.checkpoints.weights import read_config
from jaxgen.config import from_json
from jaxgen.core.errors import user_error
from jaxgen.core.files import in_bucket
from jaxgen.core.files import is_hub_id
from jaxgen.core.files import read_json
from jaxgen.operations import hub

CARD = 'README.md'
# Of the run, in the repository: the folders of an export have a config.json of their own.
CONFIG, EXPORT_CONFIG = 'config.json', 'jaxgen.json'
# Terms of public data sets as their publishers state them on their pages (2026-11); the others
# state none there.
LICENCES = {
    'shapes': 'drawn by jaxgen, Apache-2.0',
    'anyedit': 'CC-BY-4.0', 'gpt-image-edit': 'CC-BY-4.0', 'hq-edit': 'CC-BY-NC-4.0',
    'magicbrush': 'CC-BY-4.0', 'nhr-edit': 'Apache-2.0', 'omnicorpus-cc': 'CC-BY-4.0',
    'pico-banana': 'CC-BY-NC-ND-4.0', 'seed-data-edit': 'CC-BY-NC-4.0',
    'seed-data-edit-multi': 'CC-BY-NC-4.0'}
# Of a run: what sampling, evaluation and conversion read; not the optimizer's state.
_FILES = ('config.json', 'parameters.txt', 'evaluation*.json', 'fit.json', 'held_out.json',
          'samples/evaluation.png', 'tokenizer*/*', 'frozen/*', 'weights/*')
_CARD = '''---
{head}library_name: jaxgen
tags:
- jaxgen
- {system}
---

# {title}

A {system} model trained with jaxgen, {steps}.

{picture}{use}

## Data

| source | from | task | share | terms |
|---|---|---|---|---|
{data}

## Training

| | |
|---|---|
{training}

`{config}` is the whole configuration.

## Scores

{scores}

## Licences

{licences}
'''
_SAMPLE = '''```sh
hf download {repository} --local-dir={name}
jaxgen sample --workdir={name} --prompt="..." --out=samples
```'''
_PIPELINE = '''```python
from diffusers import DiffusionPipeline
pipeline = DiffusionPipeline.from_pretrained({repository!r})
```'''


def push_run(workdir: str, repository: str, licence: str = '', weights: str = 'ema') -> str:
  """Uploads the newest checkpoint of a run, without its optimizer, so that ``jaxgen`` can use it.

  Args:
    workdir: of the run, or a weights folder.
    repository: ``owner/name``.
    licence: of the weights, as the hub abbreviates it (``apache-2.0``); '' = none is stated.
    weights: ``ema`` (the plain parameters where the run keeps none) or ``params``.

  Returns:
    Where it is.

  Raises:
    UserError: no such run, no checkpoint in it, or the hub refuses it.
  """
  files = _files_of(workdir, weights)
  client = hub.opened(repository, workdir)
  text = card(workdir, repository, licence, _SAMPLE.format(
      repository=repository, name=repository.partition('/')[2]))
  step = newest_step(workdir)
  return hub.upload(client, repository, files | {CARD: text.encode()},
                    f'jaxgen push, step {step}' if step else 'jaxgen push')


def push_export(client, out: str, workdir: str, repository: str, licence: str = '') -> str:
  """Uploads what ``jaxgen convert export`` has written of a run.

  Args:
    client: of ``hub.opened``.
    out: folder of the export.
    workdir, repository, licence: as for ``push_run``.

  Returns:
    Where it is.

  Raises:
    UserError: the upload failed.
  """
  files = hub.files_below(out)
  use = (_PIPELINE.format(repository=repository) if 'model_index.json' in files else
         '\n'.join(['| folder | class |', '|---|---|', *(
             f'| `{name.rpartition("/")[0]}` | {_class_of(path)} |'
             for name, path in sorted(files.items()) if name.endswith('config.json'))]))
  text = card(workdir, repository, licence, use, config_file=EXPORT_CONFIG, picture=False)
  files |= {CARD: text.encode(), EXPORT_CONFIG: str(epath.Path(workdir) / CONFIG)}
  return hub.upload(client, repository, files, 'jaxgen convert export')


def card(workdir: str, repository: str, licence: str, use: str, *, config_file: str = CONFIG,
         picture: bool = True) -> str:
  """The model card of a run.

  Args:
    workdir, repository, licence: as for ``push_run``.
    use: how it is used, in Markdown.
    config_file: name of the run's config in the repository.
    picture: whether ``samples/evaluation.png`` is uploaded with it, where the run has one.
  """
  config, step = from_json(read_config(workdir)), newest_step(workdir)
  bases = [place for group, place in config.init_from.items()
           if group not in ('weights', 'changes') and place]
  models = sorted({base for base in bases if is_hub_id(base)})
  head = (f'license: {licence}\n' if licence else '') + (
      'base_model:\n' + ''.join(f'- {model}\n' for model in models) if models else '')
  has_picture = picture and (epath.Path(workdir) / 'samples/evaluation.png').exists()
  return _CARD.format(
      head=head, system=config.system, title=repository.partition('/')[2],
      steps=f'{step} of {config.train.steps} steps' if step else 'weights alone', use=use,
      config=config_file,
      picture='![What it draws](samples/evaluation.png)\n\n' if has_picture else '',
      data='\n'.join(_data(config)), training='\n'.join(_training(config, models, bases)),
      scores='\n'.join(_scores(workdir)), licences='\n'.join(_licences(config, models, licence)))


def _files_of(workdir: str, weights: str) -> dict[str, str | bytes]:
  """What is uploaded of a run: path in the repository -> file here."""
  read_config(workdir)
  root = epath.Path(workdir)
  if in_bucket(workdir):
    raise user_error('--workdir', workdir, 'is in a bucket; copy it to a folder here')
  wanted = list(_FILES)
  if is_run(workdir):
    step = newest_step(workdir)
    if step is None:
      raise user_error('--workdir', workdir, 'no checkpoint there yet; wait for its first save')
    folder = f'checkpoints/{step}'
    item = weights if (root / folder / weights).exists() else 'params'
    wanted += [f'{folder}/{part}' for part in ('_*', 'commit*', f'{item}/*', 'data/*')]
  return {name: path for name, path in hub.files_below(workdir).items()
          if any(fnmatch.fnmatch(name, pattern) for pattern in wanted)}


def _class_of(path: str) -> str:
  config = read_json(path, 'export again')
  names = config.get('architectures') or [config.get('_class_name', '')]
  return f'`{names[0]}`' if names[0] else ''


def _data(config: ConfigDict) -> Iterator[str]:
  for name, source in config.data.sources.items():
    share = ', '.join(f'{knot:g}' if isinstance(knot, int | float) else str(knot)
                      for knot in source.share)
    # Folders above it are nobody's business.
    path = epath.Path(source.path).name or ('captions' if source.kind == 'shapes' else '')
    yield f'| {name} | {source.kind}: {path} | {source.task} | {share} | {_terms(source.kind)} |'


def _terms(kind: str) -> str:
  return LICENCES.get(kind, 'those of its publisher; jaxgen knows none')


def _training(config: ConfigDict, models: list[str], bases: list[str]) -> Iterator[str]:
  begun = models + ['an earlier run'] * (len(models) < len(set(bases)))
  yield f'| began with | {", ".join(begun) or "random weights"} |'
  yield f'| steps | {config.train.steps} of {config.train.rows} rows |'
  yield (f'| optimizer | {config.optimizer.name}, learning rate '
         f'{config.optimizer.learning_rate:g}, {config.optimizer.schedule} |')
  square = f'{config.data.image_size} x {config.data.image_size}'
  yield f'| images | {config.data.buckets or square} |'
  yield f'| seed | {config.seed} |'


def _scores(workdir: str) -> Iterator[str]:
  found = [(file.stem, read_json(file, 'evaluate again'))
           for file in sorted(epath.Path(workdir).glob('evaluation*.json'))]
  if not found:
    yield 'None: it was not evaluated (`jaxgen evaluate`).'
    return
  yield '| evaluation | task | score |'
  yield '|---|---|---|'
  for name, record in found:
    for task, value in record['score'].items():
      yield f'| {name} | {task} | {value:.3f} |'
  settings: Mapping[str, Any] = found[0][1]
  yield ''
  yield ('Share of right images on held-out problems: ' + ', '.join(
      f'{name} {json.dumps(settings[name])}' for name in ('prompts', 'images_per_prompt', 'seed',
                                                          'weights')) + '.')


def _licences(config: ConfigDict, models: list[str], licence: str) -> Iterator[str]:
  yield (f'- these weights: {licence}' if licence else
         '- these weights: whoever uploaded them has stated no licence')
  yield from (f'- {model}: as stated on its page; it binds these weights too' for model in models)
  yield from (f'- data of the kind {kind}: {_terms(kind)}'
              for kind in dict.fromkeys(source.kind for source in config.data.sources.values()))
  yield '- jaxgen: Apache-2.0'
