"""Validation images: what a run draws of a file of requests while it trains.

The trainer hands over its parameters and knows nothing of drawing (``training.validation``).
Requests are read, drawn and written as ``jaxgen sample`` does it, on the same mesh, so the images
are those that it draws from the checkpoint of that step.
"""

import sys
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from jaxgen.checkpoints.weights import open_frozen
from jaxgen.core import trees
from jaxgen.core.errors import user_error
from jaxgen.core.errors import UserError
from jaxgen.core.types import Params
from jaxgen.data.examples import ExampleMaker
from jaxgen.sampling import batching
from jaxgen.sampling import commands
from jaxgen.sampling import jobs
from jaxgen.sampling.generate import ALL_DEVICES
from jaxgen.sampling.generate import generate
from jaxgen.sampling.generate import shift_of
from jaxgen.sampling.request import Request
from jaxgen.sharding import partition
from jaxgen.sharding.mesh import make_mesh
from jaxgen.sharding.rules import with_changes
from jaxgen.systems.base import System

FOLDER = 'samples/validation'
FIELD = 'config.validation.requests'
Draw = Callable[[int, str, Params], Mapping[str, np.ndarray]]


def drawing(config: ConfigDict, system: System, groups: Sequence[str], workdir: epath.Path, *,
            requests: Sequence[Request] = ()) -> Draw | None:
  """Prepares the validation images of a run, so that whatever is wrong with a request is said
  before it trains.

  Args:
    config: of the run, with the tokenizers that it keeps.
    system: of the run.
    groups: of parameters that the run has.
    workdir: of the run.
    requests: in place of those of ``config.validation.requests``.

  Returns:
    A function (step, ``ema`` or ``params``, parameters that steps read) -> name -> image uint8[H,
    W, 3]. It writes them to ``samples/validation/<step>_<weights>``. All processes must call it.
    None where there is nothing to draw.

  Raises:
    UserError: no such file, a request that the run cannot draw, or a run without the models to
      draw with.
  """
  if not requests and not config.validation.requests:
    return None
  requests = requests or commands.read_requests(config.validation.requests, config, FIELD)
  if absent := sorted(set(system.groups) - set(groups)):
    raise user_error(FIELD, config.validation.requests, f'this stage has no {", ".join(absent)} to '
                     'draw with; leave it empty')
  maker = ExampleMaker.of(config, system.layout)
  shifts = [shift_of(request, config, system.layout.latent.factor) for request in requests]
  batching.plan(requests, system, maker, config.sampling.rows, shifts)

  def draw(step: int, weights: str, params: Params) -> dict[str, np.ndarray]:
    whole = trees.merge(params, _absent(config, system, params, workdir))
    try:
      drawn = generate(system, whole, requests, maker=maker, config=config)
    except UserError as error:  # latents that are not finite; the run may get over it
      if jax.process_index() == 0:
        print(f'{workdir.name}: no validation images of step {step}: {error}', file=sys.stderr,
              flush=True)
      return {}
    if jax.process_index() == 0:
      jobs.save_results(requests, drawn, str(workdir / FOLDER / f'{step:06}_{weights}'))
    return {f'{number:04}_{output}': image for number, images in enumerate(drawn)
            for output, image in enumerate(images)}

  return draw


def _absent(config: ConfigDict, system: System, params: Params, workdir: epath.Path) -> Params:
  """What steps do not read, since caches stand for it, from where the run keeps it."""
  absent = trees.flatten(system.shapes()).keys() - trees.flatten(params).keys()
  if not absent:
    return {}
  kept = open_frozen(str(workdir), sorted({path.split('/')[0] for path in absent}))
  stored = trees.partition(kept, {path: path in absent for path in trees.flatten(kept)})[0]
  mesh = make_mesh(ALL_DEVICES)
  shardings = partition.parameter_shardings(
      system.axes(), stored, mesh, with_changes(config.mesh.rules))
  return trees.map_named(lambda _, leaf, where: leaf.onto(where, leaf.dtype), stored, shardings)
