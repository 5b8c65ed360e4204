"""Validation of a config, including constraints between fields, before any device work.

Sizes that depend on the models (grids, head counts) are checked where the models are built.
"""

import re
from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

from jaxgen.config.schema import GIVEN_ROLES
from jaxgen.config.schema import LANGUAGE_TASKS
from jaxgen.config.schema import PUBLIC_SETS
from jaxgen.config.schema import SOURCE_KINDS
from jaxgen.config.schema import SOURCE_TASKS
from jaxgen.config.schema import WEIGHT_CHANGES
from jaxgen.config.shares import INTERPOLATIONS
from jaxgen.config.shares import Shares
from jaxgen.core.errors import user_error
from jaxgen.core.limits import MAX_GUIDANCE
from jaxgen.core.limits import MAX_SEED

SPLITS = ('train', 'test', 'validation')
DTYPES = ('float32', 'bfloat16')
FORMATS = ('int8', 'fp8')
CHOICES = {
    'model.compute_dtype': DTYPES,
    'model.frozen_dtype': DTYPES,
    'data.fit': ('crop', 'pad', 'stretch'),
    'data.references': ('bucket', 'native', 'area'),
    'data.oversize': ('refuse', 'skip'),
    'data.interpolation': INTERPOLATIONS,
    'data.shown': ('all', 'text', 'queries', 'preceding'),
    'sampling.solver': ('euler', 'unipc'),
    'sampling.renormalize': ('none', 'token', 'image'),
    'objective.timesteps': ('logit_normal', 'uniform'),
    'optimizer.name': ('adamw', 'muon'),
    'optimizer.schedule': ('constant', 'cosine'),
    'optimizer.moments_dtype': DTYPES,
    'optimizer.memory': ('device', 'host'),
    'init_from.weights': ('ema', 'params'),
    'train.zero': (2, 3),
    'validation.weights': ('ema', 'params', 'both'),
}
POSITIVE = (
    'data.image_size', 'data.vision_size', 'data.segments_per_row', 'data.prompt_tokens',
    'data.threads', 'data.prefetch', 'data.image_sizes', 'objective.timestep_std',
    'objective.timestep_shift', 'optimizer.learning_rate', 'optimizer.eps', 'optimizer.clip_norm',
    'train.steps', 'train.rows', 'train.accumulate', 'train.log_every', 'train.checkpoint_every',
    'train.keep', 'train.halt_after', 'train.host_timeout', 'sampling.steps',
    'sampling.timestep_shift', 'sampling.rows', 'validation.batches',
)
NOT_NEGATIVE = (
    'data.visual_tokens', 'data.patches', 'data.look_ahead', 'data.vision_side',
    'data.vision_area', 'data.prompt_cut', 'data.reference_side', 'data.max_references',
    'data.bov_weight', 'objective.flow_matching',
    'objective.next_token', 'optimizer.warmup_steps', 'optimizer.weight_decay',
    'sampling.guidance', 'sampling.image_guidance', 'sampling.size', 'seed', 'validation.every',
    'validation.seed',
)
PROBABILITIES = ('model.mask_ratio', 'data.dropout.all', 'data.dropout.text',
                 'data.dropout.last_text', 'data.dropout.vision', 'data.dropout.latents',
                 'data.max_bad_share', 'sampling.last_level')
# bfloat16 has 8 bits of precision: a relative change below 2^-8 is rounded away, so a second moment
# that decays more slowly than this would never change.
SLOWEST_IN_HALF = 0.98
AT_MOST = {'seed': MAX_SEED, 'validation.seed': MAX_SEED, 'sampling.guidance': MAX_GUIDANCE,
           'sampling.image_guidance': MAX_GUIDANCE}
DECAYS = ('optimizer.b1', 'optimizer.b2', 'optimizer.ema_decay')  # in [0, 1)


def validate(config: ConfigDict) -> None:
  """Raises a ``UserError`` that names the field, the value and the fix; returns None if valid."""
  _each(config, CHOICES, lambda value, field: value in CHOICES[field],
        lambda field: f'use one of {", ".join(map(str, CHOICES[field]))}')
  _each(config, POSITIVE, lambda value, _: value > 0, lambda _: 'use a number above 0')
  _each(config, NOT_NEGATIVE, lambda value, _: value >= 0, lambda _: 'use 0 or more')
  _each(config, PROBABILITIES, lambda value, _: 0 <= value <= 1, lambda _: 'use 0 to 1')
  _each(config, AT_MOST, lambda value, field: value <= AT_MOST[field],
        lambda field: f'use 0 to {AT_MOST[field]}')
  _each(config, DECAYS, lambda value, _: 0 <= value < 1, lambda _: 'use 0 up to, not including, 1')
  _check_size_shift(config.sampling.size_shift)
  _check_objective(config)
  _check_train(config)
  _check_mesh(config)
  _check_trainable(config)
  _check_path_rules('config.init_from.changes', config.init_from.changes, WEIGHT_CHANGES)
  _check_path_rules('config.model.quantized', config.model.quantized, FORMATS)
  if config.model.fp8 and config.model.compute_dtype != 'bfloat16':
    raise user_error('config.model.compute_dtype', config.model.compute_dtype, 'model.fp8 replaces '
                     'products of bfloat16; use that, or set model.fp8 to False')
  for name, entry in config.model.lora.items():
    _check_lora(f'config.model.lora.{name}', entry)
  _check_data(config.data)
  for section in ('data', 'validation'):
    where, sources = f'config.{section}.sources', config[section].sources
    for name, source in sources.items():
      _check_source(f'{where}.{name}', source)
    if sources or section == 'data':
      Shares({name: source.share for name, source in sources.items()}, config.data.interpolation,
             where)


def _each(config: ConfigDict, fields, holds: Callable[[object, str], bool],
          fix: Callable[[str], str]) -> None:
  for field in fields:
    value = config
    for part in field.split('.'):
      value = value[part]
    if not holds(value, field):
      raise user_error(f'config.{field}', value, fix(field))


def _check_size_shift(line: tuple) -> None:
  if line and not (len(line) == 4 and all(isinstance(value, int | float) for value in line)
                   and line[0] != line[2]):
    raise user_error('config.sampling.size_shift', line, 'give two points of a line, (tokens, mu, '
                     'tokens, mu) at two numbers of tokens, or ()')


def _check_objective(config: ConfigDict) -> None:
  if config.objective.flow_matching == 0 and config.objective.next_token == 0:
    raise user_error('config.objective.flow_matching', 0.0,
                     'nothing to learn: give flow_matching or next_token a weight above 0')
  if config.data.cache and not config.objective.flow_matching:
    raise user_error('config.data.cache', config.data.cache, 'holds latents, which only '
                     'objective.flow_matching reads; leave it empty')
  if config.data.states and config.objective.next_token:
    raise user_error('config.data.states', config.data.states, 'takes the place of the language '
                     'model, which objective.next_token trains; leave it empty')
  if config.data.states and config.data.image_tokens:
    raise user_error('config.data.image_tokens', config.data.image_tokens, 'is not read beside '
                     'data.states, which stands for the whole language model; leave it empty')
  tasks = {source.task for source in config.data.sources.values()}
  if config.objective.flow_matching and tasks and tasks <= set(LANGUAGE_TASKS):
    raise user_error('config.objective.flow_matching', config.objective.flow_matching,
                     f'every source has the task {" or ".join(sorted(tasks))}, which has no target '
                     'image; add a source of task image or pair, or set it to 0')
  if config.objective.next_token and not tasks & {*LANGUAGE_TASKS, 'dialogue', 'auto'}:
    raise user_error('config.objective.next_token', config.objective.next_token,
                     'no source has the task caption or conversation; add one, or set it to 0')


def _check_train(config: ConfigDict) -> None:
  rows, accumulate = config.train.rows, config.train.accumulate
  if rows % accumulate:
    raise user_error('config.train.accumulate', accumulate,
                     f'must divide train.rows = {rows}; use one of {_divisors(rows)}')
  if config.optimizer.warmup_steps > config.train.steps:
    raise user_error('config.optimizer.warmup_steps', config.optimizer.warmup_steps,
                     f'must not exceed train.steps = {config.train.steps}')
  if config.optimizer.moments_dtype == 'bfloat16' and config.optimizer.b2 > SLOWEST_IN_HALF:
    raise user_error('config.optimizer.moments_dtype', 'bfloat16', 'cannot hold a second moment '
                     f'that decays so slowly; use float32, or b2 up to {SLOWEST_IN_HALF} in '
                     f'place of {config.optimizer.b2}')


def _check_mesh(config: ConfigDict) -> None:
  sizes = config.mesh.to_dict()
  rules = sizes.pop('rules')
  for axis, size in sizes.items():
    if size != -1 and size < 1:
      raise user_error(f'config.mesh.{axis}', size, 'use 1 or more, or -1 for the devices left')
  free = [axis for axis, size in sizes.items() if size == -1]
  if len(free) > 1:
    raise user_error(f'config.mesh.{free[1]}', -1,
                     f'mesh.{free[0]} is -1 already; only one axis can take the devices left')
  rows = config.train.rows // config.train.accumulate
  ways = max(sizes['data'], 1) * max(sizes['fsdp'], 1)
  if rows % ways:
    raise user_error('config.train.rows', config.train.rows,
                     f'rows of a micro-batch ({rows}) must be a multiple of mesh.data x mesh.fsdp '
                     f'= {ways}')
  if not all(_is_mesh_rule(rule, sizes) for rule in rules):
    raise user_error('config.mesh.rules', rules, "each rule is (logical axis, tuple of "
                     f"{', '.join(sizes)}, True or False), as ('keys', ('context',), True)")


def _is_mesh_rule(rule: object, axes: Mapping[str, int]) -> bool:
  return (isinstance(rule, tuple) and len(rule) == 3 and isinstance(rule[0], str)
          and isinstance(rule[1], tuple) and all(axis in axes for axis in rule[1])
          and isinstance(rule[2], bool))


def _check_trainable(config: ConfigDict) -> None:
  if not config.trainable:
    raise user_error('config.trainable', (),
                     "give (regex, True or False) rules, as (('.*', True),)")
  for rule in config.trainable:
    if not (isinstance(rule, tuple) and len(rule) == 2 and isinstance(rule[0], str)
            and isinstance(rule[1], bool)):
      raise user_error('config.trainable', rule, 'each rule is (regex, True or False)')
    _check_regex('config.trainable', rule[0])
  if not any(trains for _, trains in config.trainable):
    raise user_error('config.trainable', config.trainable, 'nothing trains; set a rule to True')


def _check_path_rules(where: str, rules: tuple, choices: tuple[str, ...]) -> None:
  """Rules are pairs of a regex over group/path and one of the choices."""
  for rule in rules:
    if not (isinstance(rule, tuple) and len(rule) == 2 and isinstance(rule[0], str)
            and rule[1] in choices):
      raise user_error(where, rule, f'each rule is (regex over group/path, one of '
                       f'{", ".join(choices)})')
    _check_regex(where, rule[0])


def _check_lora(where: str, entry: ConfigDict) -> None:
  _check_regex(f'{where}.modules', entry.modules)
  for field in ('rank', 'alpha'):
    if entry[field] <= 0:
      raise user_error(f'{where}.{field}', entry[field], 'use a number above 0')


def _check_regex(where: str, pattern: str) -> None:
  try:
    re.compile(pattern)
  except re.error as error:
    raise user_error(where, pattern, f'not a regular expression: {error}') from None


def _check_data(data: ConfigDict) -> None:
  if not data.sources:
    raise user_error('config.data.sources', {}, 'name at least one source(kind, task)')
  if not data.tokenizer and not data.tower_tokenizers:
    raise user_error('config.data.tokenizer', '',
                     'give the folder of a tokenizer; `jaxgen data tokenizer` trains a small one')
  for field in ('pair_prompt', 'edit_prompt'):
    if '{caption}' not in data[field]:
      raise user_error(f'config.data.{field}', data[field], 'must contain {caption}')
  # A role that no image has would silently train without conditions.
  if not set(data.clean_roles) <= set(GIVEN_ROLES):
    raise user_error('config.data.clean_roles', data.clean_roles,
                     f'name some of {", ".join(GIVEN_ROLES)}, or none: ()')
  areas = data.reference_pixels
  if not areas or not all(type(area) is int and area > 0 for area in areas):
    raise user_error('config.data.reference_pixels', areas, 'give areas above 0, the last of which '
                     'holds for all larger numbers of references')
  bounds = data.vision_pixels
  if len(bounds) != 2 or not all(type(area) is int for area in bounds) or not (
      0 < bounds[0] <= bounds[1]):
    raise user_error('config.data.vision_pixels', bounds, 'give the smallest and the largest area')


def _check_source(where: str, source: ConfigDict) -> None:
  for field, choices in (('kind', SOURCE_KINDS + PUBLIC_SETS), ('task', SOURCE_TASKS),
                         ('split', SPLITS)):
    if source[field] not in choices:
      raise user_error(f'{where}.{field}', source[field], f'use one of {", ".join(choices)}')
  if source.kind != 'shapes' and not source.path:
    raise user_error(f'{where}.path', '', f'a {source.kind} source needs a path')
  if source.limit < 0:
    raise user_error(f'{where}.limit', source.limit, 'use 0 for all records, or a number above 0')


def _divisors(number: int) -> list[int]:
  return [factor for factor in range(1, number + 1) if number % factor == 0]
