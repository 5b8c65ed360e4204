"""iMontage, stage 2: a tenth of image edits, the rest the six tasks of many images (Table 5).

  jaxgen train --config=configs/imontage/sft.py --workdir=runs/imontage/sft
  jaxgen train --config=configs/imontage/sft.py:flat --workdir=runs/imontage/probe
  jaxgen report --workdir=runs/imontage/probe
  jaxgen train --config=configs/imontage/sft.py:cocktail:runs/imontage/probe --workdir=...

15K steps on 64 H800, one sample for each. The argument names the schedule of the tasks (L032,
L033): ``cocktail`` adds one task at a time, ``stage`` first the tasks of one output, ``flat`` mixes
all from the beginning with weights inverse to their sizes. After a colon, a run whose report tells
the order of the tasks, from the lowest loss to the highest; without it, the order of ``base.py``.
Every task has an output size of its own, given images any size (L023).
"""

from etils import epath

from configs.imontage import base
from jaxgen.config import source
from jaxgen.core.errors import user_error
from jaxgen.core.files import read_json
from jaxgen.data.mixture import cocktail_mix
from jaxgen.data.mixture import flat_mix
from jaxgen.data.mixture import stage_mix

EDITS = 0.1  # share of the edits (L031)
# (height, width) of the outputs; the paper gives none (A05).
OUTPUTS = dict(multi_reference=(1024, 1024), control_reference=(1024, 1024),
               style_reference=(1024, 1024), multi_turn=(768, 768), multi_view=(512, 512),
               storyboard=(576, 1024))


def order(probe: str) -> tuple[str, ...]:
  """The tasks from the easiest to the hardest, by the report of the run ``probe`` (A08)."""
  if not probe:
    return base.ORDER
  file = epath.Path(probe) / 'summary.json'
  fix = f'train sft.py:flat there, then run `jaxgen report --workdir={probe}`'
  losses = read_json(file, fix).get('losses', {}).get(file.parent.name, {})
  if missing := [name for name in base.ORDER if name not in losses]:
    raise user_error(str(file), missing, f'no losses of these tasks; {fix}')
  return tuple(name for name in losses if name in base.ORDER)


def shares(schedule: str) -> dict[str, tuple]:
  """Knots of every task, which together leave ``EDITS`` to the edits."""
  schedule, _, probe = schedule.partition(':')
  if schedule == 'cocktail':
    return cocktail_mix(order(probe), total=1 - EDITS)
  if schedule == 'stage':
    rest = [name for name in base.ORDER if name not in base.MANY_TO_ONE]
    return stage_mix([base.MANY_TO_ONE, rest], total=1 - EDITS)
  if schedule == 'flat':
    return flat_mix(base.ORDER, base.SIZES, total=1 - EDITS)
  raise user_error('--config', f'sft.py:{schedule}', 'write cocktail, stage or flat')


def get_config(schedule: str = 'cocktail'):
  config = base.get_config()
  config.data.sources.edits = source('arrayrecord', 'edit', path='data/edits/*.arrayrecord',
                                     share=(EDITS,))
  for name, knots in shares(schedule).items():
    config.data.sources[name] = source('arrayrecord', 'many_to_many', share=knots,
                                       path=f'data/{name}/*.arrayrecord', size=OUTPUTS[name])
  config.data.interpolation = 'step'
  config.data.buckets = 'canonical'
  config.data.references = 'native'
  config.data.reference_pixels = (1_048_576,)
  config.data.visual_tokens = 32_768  # four 1024 x 1024 images in, four out
  config.init_from.denoiser = 'runs/imontage/pretrain'
  config.optimizer.weight_decay = 0.01
  config.optimizer.warmup_steps = 500
  config.train.steps = 15_000
  base.split(config, 4)  # an H800 has no room for more than a quarter of such a row
  return config
