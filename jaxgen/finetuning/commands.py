"""The command ``jaxgen finetune``."""

import dataclasses
import functools
import sys
from collections.abc import Sequence

import jax
from etils import epath
from ml_collections import ConfigDict

from jaxgen.checkpoints.weights import read_config
from jaxgen.config import from_json
from jaxgen.config import overridden
from jaxgen.config import validate
from jaxgen.conversion import pipelines
from jaxgen.conversion.pretrained import read_external
from jaxgen.core import trees
from jaxgen.core.files import check_place
from jaxgen.data.show import show
from jaxgen.finetuning import fit
from jaxgen.finetuning import folder
from jaxgen.finetuning import results
from jaxgen.finetuning.recipe import recipe
from jaxgen.operations import hub
from jaxgen.sampling import commands
from jaxgen.sampling import jobs
from jaxgen.sampling import validation
from jaxgen.sampling.request import Request
from jaxgen.sharding.mesh import use_compilation_cache
from jaxgen.systems.registry import make_system
from jaxgen.training import caching
from jaxgen.training.loop import train
from jaxgen.training.states import write_states

CACHES = ('cache', 'states')  # fields of config.data, and folders of the workdir
ALONE = {'coordinator': 'none'}  # one process with all devices of this machine


@dataclasses.dataclass(frozen=True)
class Wishes:
  """What the flags ask for; see ``recipe``, ``results.deliver`` and ``commands.read_requests``."""

  rank: int
  size: int
  steps: int
  text_rank: int = 0
  validate: str = ''
  merge: bool = False
  push_to: str = ''
  overrides: Sequence[str] = ()


def finetune(base: str, data: str, workdir: str, wishes: Wishes) -> bool:
  """Fine-tunes a published pipeline on a folder of images, or goes on with the run in the workdir.

  Latents and text states are cached, whose models then leave the devices; a setting is chosen that
  fits these; and the run trains, with images of its validation. What it leaves is an ordinary run,
  and ``export/``.

  Args:
    base: folder or hub id of the pipeline.
    data: the images, in any layout that is known.
    workdir: of the run.
    wishes: of the flags.

  Returns:
    Whether all steps are done; False after SIGTERM.

  Raises:
    UserError: a base that is not known, data that do not fit it, too little memory, a workdir of
      another run; or as ``train``.
  """
  check_place(workdir)
  export = str(epath.Path(workdir) / results.FOLDER)
  client = hub.opened(wishes.push_to, export) if wishes.push_to else None
  config, found = _understood(base, data, workdir, wishes)
  requests = _requests(config, wishes) or found.requests
  caching.write_cache(config, config.data.cache, ALONE, read_external)
  if config.data.states:
    write_states(config, config.data.states, ALONE, read_external)
  if not _stored(workdir):
    config = fit.fitted(config, lambda config: overridden(config, wishes.overrides), say)
  draws = functools.partial(validation.drawing, requests=requests)
  if not train(config, workdir, ALONE, read_external, drawing=draws):
    return False
  facts = dict(data=f'{sum(found.tasks.values())} samples; {found.layout}', call=_call(requests[0]))
  for path in results.deliver(config, workdir, base, facts, merge=wishes.merge):
    print(path)
  if client:
    print(hub.upload(client, wishes.push_to, hub.files_below(export),
                     f'jaxgen finetune, step {config.train.steps}'))
  return True


def _understood(base: str, data: str, workdir: str, wishes: Wishes
                ) -> tuple[ConfigDict, folder.Survey]:
  """The config of the run, with what was chosen for the devices if it goes on, and the data.

  Both are printed, and the first sample as the model gets it.
  """
  pipeline = pipelines.open_pipeline(base)
  say('\n'.join(pipelines.describe(pipeline)))
  use_compilation_cache()
  config = recipe(pipeline.config, data, rank=wishes.rank, text_rank=wishes.text_rank,
                  size=wishes.size, steps=wishes.steps)
  config.validation.every = config.train.checkpoint_every  # of the first captions, or of the file
  if wishes.validate:
    file = jobs.existing_file(wishes.validate, '--validate')
    config.validation.requests = str(file.resolve())
  found = folder.survey(data, config, make_system(config))
  config.data.visual_tokens, config.train.rows = found.tokens, fit.rows(jax.device_count())
  for kind in CACHES if not wishes.text_rank else CACHES[:1]:  # towers that train are no cache
    config.data[kind] = str(epath.Path(workdir).resolve() / kind)
  if before := _stored(workdir):
    values = trees.flatten(before.to_dict())
    config.update_from_flattened_dict(
        {field: values[field.replace('.', '/')] for field in fit.FIELDS})
  overridden(config.lock(), wishes.overrides)
  validate(config)
  say('\n'.join(found.lines()))
  alone = config.copy_and_resolve_references().unlock()
  alone.data.update(dict.fromkeys(CACHES, ''))
  show(alone, make_system(config).layout)
  return config, found


def _requests(config: ConfigDict, wishes: Wishes) -> list[Request]:
  """The requests of the file that the config names; none where it names none."""
  file = config.validation.requests
  where = '--validate' if wishes.validate else validation.FIELD
  return commands.read_requests(file, config, where) if file else []


def say(text: str) -> None:
  """Prints progress, on stderr like that of training."""
  print(text, file=sys.stderr, flush=True)


def _call(request: Request) -> str:
  """What diffusers is asked for the same; of given images the first."""
  prompt = next((part.text for part in request.sample.texts), '')
  given = len(request.sample.images) > len(request.sample.targets)
  return f'{"image=load_image(FILE), " if given else ""}prompt={prompt!r}'


def _stored(workdir: str) -> ConfigDict | None:
  """The config of the run that the workdir holds."""
  if not (epath.Path(workdir) / 'config.json').exists():
    return None
  return from_json(read_config(workdir))
