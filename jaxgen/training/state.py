"""The train state: its contents, its abstract blueprint and its initialisation."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jaxgen.core import trees
from jaxgen.core.errors import user_error
from jaxgen.core.types import Params
from jaxgen.checkpoints.weights import Stored
from jaxgen.models.layers import lora
from jaxgen.models.layers import quantized
from jaxgen.sharding import memory
from jaxgen.sharding import partition
from jaxgen.sharding.rules import Rules
from jaxgen.sharding.rules import with_changes
from jaxgen.systems.base import System
from jaxgen.training.optimizer import make_optimizer

AUTOENCODER = 'autoencoder'  # parameter group that runs before the step


@flax.struct.dataclass
class TrainState:
  """Everything that a step updates; frozen parameters are kept outside.

  Attributes:
    step: i32[], optimizer steps done, including skipped ones.
    params: trainable parameters, fp32 masters.
    opt_state: optimizer state of ``params``.
    ema: moving average of ``params``; an empty dict if EMA is off.
    rng: u32[2], constant over the run; step n uses ``fold_in(rng, n)``.
    skipped: i32[], steps skipped because the loss or the gradient was not finite.
    skipped_in_a_row: i32[], steps skipped since the last finite step.
  """

  step: jax.Array
  params: Params
  opt_state: optax.OptState
  ema: Params
  rng: jax.Array
  skipped: jax.Array
  skipped_in_a_row: jax.Array

  @property
  def items(self) -> dict[str, Any]:
    """The state as named checkpoint items, of arrays or of ``ShapeDtypeStruct``."""
    items = {'params': self.params}
    if self.ema:
      items['ema'] = self.ema
    items['train'] = {name: getattr(self, name) for name in (
        'opt_state', 'step', 'rng', 'skipped', 'skipped_in_a_row')}
    return items

  @classmethod
  def of_items(cls, items: Mapping[str, Any]) -> 'TrainState':
    """Builds a state from its ``items``."""
    return cls(params=items['params'], ema=items.get('ema', {}), **items['train'])


@dataclasses.dataclass(frozen=True)
class Blueprint:
  """Shapes, dtypes and shardings of everything that a run will hold, before any array exists.

  Attributes:
    groups: parameter groups of the run.
    trains: parameter path -> whether it trains.
    optimizer: updates the trainable parameters.
    state: ``TrainState`` of ``ShapeDtypeStruct`` with shardings.
    stored: frozen parameters as saved, in ``config.model.frozen_dtype``; ``ShapeDtypeStruct`` too.
      Where steps read quantised ones they lie in host memory, if the devices can copy from it.
    frozen: frozen parameters as steps read them, quantised where the config asks for it.
    quantize: function from (a part of) ``stored`` to that of ``frozen``.
    table: table from logical axes to mesh axes.
  """

  groups: tuple[str, ...]
  trains: Mapping[str, bool]
  optimizer: optax.GradientTransformation
  state: TrainState
  stored: Params
  frozen: Params
  quantize: Callable[[Params], Params]
  table: Rules


def make_blueprint(config: ConfigDict, system: System, groups: Sequence[str], mesh: Mesh
                   ) -> Blueprint:
  """Determines which parameters train, and the sharding of every array.

  Args:
    config: the run's config.
    system: provides ``groups``, ``shapes`` and ``axes``.
    groups: parameter groups that the objectives need.
    mesh: the run's mesh.

  Raises:
    UserError: a parameter that no rule of ``config.trainable`` matches; a rule that matches no
      parameter; no trainable parameter at all; a trainable autoencoder, adapter base or quantised
      kernel; or host memory that the devices do not support.
  """
  check_memory(config, mesh)
  groups = tuple(groups)
  trains, table = trainable_paths(config, system, groups), with_changes(config.mesh.rules)
  kernels, axes = _kernels_to_quantize(config, system, trains), system.axes(groups)

  def placed(shapes, axes):
    return trees.map_named(
        lambda _, leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        shapes, partition.parameter_shardings(axes, shapes, mesh, table))

  params, stored = trees.partition(placed(system.shapes(groups), axes), trains)
  optimizer = make_optimizer(config, trees.partition(axes, trains)[0])
  dtype = jnp.dtype(config.model.frozen_dtype)
  stored = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding), stored)
  quantize = functools.partial(quantized.quantize, axes=axes, kernels=kernels)
  frozen = placed(jax.eval_shape(quantize, stored), quantized.quantized_axes(axes, kernels))
  if kernels:
    quantize = functools.partial(_one_by_one, quantize, frozen)
    stored = memory.on_host(stored) if memory.has_host(mesh) else stored
  return Blueprint(groups, trains, optimizer, _abstract_state(config, optimizer, params, mesh),
                   stored, frozen, quantize, table)


def _one_by_one(quantize: Callable[[Params], Params], frozen: Params, stored: Params) -> Params:
  """Brings parameters to the devices and quantises them one after the other, so that device memory
  never holds all of them unquantised; see ``Blueprint``."""
  read, goals = {}, trees.flatten(frozen)
  for path, leaf in trees.flatten(stored).items():
    whole = trees.unflatten({path: jax.device_put(leaf, goals[path].sharding)})
    if f'{path}_scale' in goals:
      places = {name: goals[name].sharding for name in (path, f'{path}_scale')}
      whole = jax.jit(quantize, out_shardings=trees.unflatten(places))(whole)
    read |= trees.flatten(jax.block_until_ready(whole))
  return trees.unflatten(read)


def check_memory(config: ConfigDict, mesh: Mesh) -> None:
  """Raises a ``UserError`` if the config offloads to host memory that devices do not support."""
  models = trees.flatten(config.model.to_dict(), 'config/model')
  wishes = {path: value for path, value in models.items() if path.endswith('/remat')}
  wishes['config/optimizer/memory'] = config.optimizer.memory
  for path, value in wishes.items():
    if value in ('host', 'offload'):
      memory.check_host(path.replace('/', '.'), value, mesh)


def trainable_paths(config: ConfigDict, system: System, groups: Sequence[str]) -> dict[str, bool]:
  """Whether each parameter of ``groups`` trains, by path; checks rules against all groups."""
  paths = list(trees.flatten(system.shapes(system.groups)))
  matched = trees.match_rules(paths, config.trainable, 'config.trainable')
  trains = {path: value for path, value in matched.items() if path.split('/')[0] in groups}
  for path, value in trains.items():
    if value and path.startswith(f'{AUTOENCODER}/'):
      raise user_error('config.trainable', path, 'the autoencoder runs before the step and cannot '
                       f"train; put ('{AUTOENCODER}/.*', False) first")
    if value and lora.is_fixed(path, matched):
      raise user_error('config.trainable', path, 'beside an adapter nothing else trains; put '
                       f"({lora.TRAINABLE!r}, True) first and freeze the rest of its module")
  if not any(trains.values()):
    raise user_error('config.trainable', config.trainable,
                     f'nothing trains in the groups that the objectives need: {tuple(groups)}')
  return trains


def init_state(config: ConfigDict, system: System, blueprint: Blueprint,
               loaded: Mapping[str, Any]) -> tuple[TrainState, Params]:
  """Initialises the state and the frozen parameters at step 0, sharded but not quantised.

  Args:
    config: the run's config; ``config.seed`` determines every random number.
    system: provides ``init``.
    blueprint: the run's blueprint.
    loaded: group -> tree of numpy arrays or ``Stored``, for groups that start from weights.
      Parameters missing from it are initialised at random. An array smaller than its parameter
      overwrites the first entries of a random initialisation.

  Returns:
    ``(state, stored)``; see ``Blueprint``.
  """
  rng, _ = jax.random.split(jax.random.PRNGKey(config.seed))
  params = init_params(config, system, trees.merge(blueprint.state.params, blueprint.stored),
                       loaded)
  trainable, stored = trees.partition(params, blueprint.trains)
  with_ema = config.optimizer.ema_decay > 0

  def begin(params, rng):
    return TrainState(
        step=jnp.zeros((), jnp.int32), params=params, opt_state=blueprint.optimizer.init(params),
        ema=jax.tree.map(jnp.copy, params) if with_ema else {}, rng=rng,
        skipped=jnp.zeros((), jnp.int32), skipped_in_a_row=jnp.zeros((), jnp.int32))

  begin = jax.jit(begin, out_shardings=shardings(blueprint.state), donate_argnums=0)
  return begin(trainable, np.asarray(rng)), stored


def init_params(config: ConfigDict, system: System, target: Params,
                loaded: Mapping[str, Any]) -> Params:
  """The parameters of ``target``, a tree of ``ShapeDtypeStruct``, at step 0; see ``init_state``."""
  _, rng = jax.random.split(jax.random.PRNGKey(config.seed))
  found = trees.flatten({group: loaded[group] for group in target if group in loaded})
  fits = {path: path in found and found[path].shape == leaf.shape
          for path, leaf in trees.flatten(target).items()}
  placed, random = trees.partition(target, fits)
  params = _place(found, placed)
  if random:
    made = _extend(_init_random(system, rng, memory.off_host(random)), found)
    params = trees.merge(params, jax.device_put(made, shardings(random)))
  return params


def shardings(abstract: Any) -> Any:
  """The shardings of a tree of arrays or ``ShapeDtypeStruct``."""
  return jax.tree.map(lambda leaf: leaf.sharding, abstract)


def _kernels_to_quantize(config: ConfigDict, system: System, trains: Mapping[str, bool]
                         ) -> dict[str, str]:
  kernels = quantized.chosen_kernels(system.axes(), config.model.quantized)
  for path in kernels:
    if trains.get(path, False):
      raise user_error(quantized.FIELD, path, 'this parameter trains, and eight bits cannot; '
                       'freeze it in config.trainable or name others')
  return kernels


def _init_random(system: System, rng: jax.Array, target: Params) -> Params:
  def init(rng):
    params = trees.flatten(system.init(rng, tuple(target)))
    return trees.map_named(lambda path, goal: params[path].astype(goal.dtype), target)

  return jax.jit(init, out_shardings=shardings(target))(np.asarray(rng))


def _place(found: Mapping[str, np.ndarray | Stored], target: trees.Tree) -> Params:
  """Loads the weights one by one over the devices to where they lie; each process reads only its
  own shards."""
  def place(path, goal):
    leaf, where = found[path], memory.of_devices(goal)
    if isinstance(leaf, Stored):
      array = leaf.onto(where, goal.dtype)
    else:
      array = jax.make_array_from_callback(
          goal.shape, where, lambda index: np.asarray(leaf[index], goal.dtype))
    return jax.block_until_ready(jax.device_put(array, goal.sharding))

  return trees.map_named(place, target)


def _extend(random: Params, found: Mapping[str, np.ndarray | Stored]) -> Params:
  """Overwrites the first entries of random parameters with smaller arrays from the weights."""
  def write(path, leaf):
    if path not in found:
      return leaf
    small = np.asarray(found[path], leaf.dtype)
    return jax.jit(lambda leaf: jax.lax.dynamic_update_slice(leaf, small, (0,) * leaf.ndim),
                   out_shardings=leaf.sharding, donate_argnums=0)(leaf)

  return trees.map_named(write, random)


def _is_masked(leaf: Any) -> bool:
  return isinstance(leaf, optax.MaskedNode)


def _abstract_state(config: ConfigDict, optimizer: optax.GradientTransformation, params: Params,
                    mesh: Mesh) -> TrainState:
  whole = partition.replicated(mesh)

  def scalar(dtype=jnp.int32, shape=()):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=whole)

  def moment(leaf, param):
    if _is_masked(leaf):  # placeholder of a parameter that the other optimizer updates
      return leaf
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=param.sharding)

  opt_state = optax.tree.map_params(
      optimizer, moment, jax.eval_shape(optimizer.init, params), params, is_leaf=_is_masked,
      transform_non_params=lambda leaf: scalar(leaf.dtype, leaf.shape))
  ema = params if config.optimizer.ema_decay > 0 else {}
  if config.optimizer.memory == 'host':
    opt_state, ema = memory.on_host((opt_state, ema))
  return TrainState(
      step=scalar(), params=params, opt_state=opt_state, ema=ema, rng=scalar(jnp.uint32, (2,)),
      skipped=scalar(), skipped_in_a_row=scalar())
