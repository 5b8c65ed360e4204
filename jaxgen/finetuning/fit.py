"""Chooses rows, pieces, remat, sharding and eight bits so that a run fits the devices here.

Every candidate is compiled as ``jaxgen plan`` compiles it, and its memory read; the first that fits
is taken, and those whose parameters alone do not fit are not compiled.
"""

import dataclasses
import itertools
import math
import os
from collections.abc import Callable, Iterator

import jax
from ml_collections import ConfigDict

from jaxgen.core.errors import user_error
from jaxgen.finetuning.recipe import TEXT_MODULES
from jaxgen.models.layers.quantized import has_qwix
from jaxgen.planning.program import compile_program
from jaxgen.planning.program import make_program
from jaxgen.planning.program import resident_bytes

GIB = 2**30
ROWS = 4  # of a global batch on fewer devices than that
SPARE = 0.92  # share of the memory that a run may take
REMAT = ('none', 'attention', 'full')
EIGHT_BITS = ((r'denoiser/.*blocks/.*/kernel', 'int8'),)
TEXT_EIGHT_BITS = ((TEXT_MODULES + '/kernel', 'int8'),)  # of towers that steps read
# What the choice writes, and a run that goes on keeps.
FIELDS = ('train.rows', 'train.accumulate', 'mesh.fsdp', 'model.denoiser.remat', 'model.quantized')


@dataclasses.dataclass(frozen=True)
class Setting:
  """One candidate: micro-batches of a step, remat of the denoiser, devices that parameters are
  split over, and whether the denoiser's frozen kernels have eight bits."""

  rows: int
  accumulate: int
  remat: str
  fsdp: int
  eight_bits: bool

  def __str__(self):
    pieces = '' if self.accumulate == 1 else f' in {self.accumulate} pieces'
    split = '' if self.fsdp == 1 else f', parameters split over {self.fsdp} devices'
    return (f'{self.rows} rows{pieces}, remat {self.remat}{split}'
            f'{", frozen kernels in int8" if self.eight_bits else ""}')

  def applied(self, config: ConfigDict) -> ConfigDict:
    """A copy of the config with this setting."""
    eight = EIGHT_BITS if config.data.states else EIGHT_BITS + TEXT_EIGHT_BITS
    values = (self.rows, self.accumulate, self.fsdp, self.remat, eight if self.eight_bits else ())
    config = config.copy_and_resolve_references().unlock()
    config.update_from_flattened_dict(dict(zip(FIELDS, values, strict=True)))
    return config


def fitted(config: ConfigDict, change: Callable[[ConfigDict], ConfigDict],
           say: Callable[[str], None]) -> ConfigDict:
  """The config with the first setting that fits the local devices.

  Args:
    config: of the run, whose caches are written.
    change: made to every candidate: what the user asks for wins.
    say: is told what was tried and what was chosen.

  Raises:
    UserError: none fits; says what the smallest needs and which lever is left.
  """
  devices, limit = jax.devices(), memory_limit()
  least, too_large = math.inf, set()
  for setting in settings(len(devices), adapters=bool(config.model.lora)):
    if (setting.fsdp, setting.eight_bits) in too_large:
      continue
    candidate = change(setting.applied(config).lock())
    program = make_program(candidate, devices)
    need = resident_bytes(program)
    if need > SPARE * limit:  # whatever the rows and remat
      too_large.add((setting.fsdp, setting.eight_bits))
    else:
      need = compile_program(program).memory.peak
    verdict = 'fits' if need <= SPARE * limit else 'does not fit'
    say(f'{setting}: {need / GIB:.2f} of {limit / GIB:.2f} GiB on each of {len(devices)} devices, '
        f'{verdict}')
    if need <= SPARE * limit:
      return candidate
    least = min(least, need)
  raise user_error('--size', config.data.image_size, 'the smallest setting needs '
                   f'{least / GIB:.2f} GiB of {limit / GIB:.2f} GiB on each device; take a '
                   'smaller --size, '
                   f'{"more devices" if config.model.lora else "--lora in place of --full"}'
                   f'{"" if has_qwix() else ", or install qwix for eight bits"}')


def settings(devices: int, *, adapters: bool) -> Iterator[Setting]:
  """All candidates, the fastest first."""
  share = rows(devices) // devices
  for eight, fsdp, accumulate, remat in itertools.product(
      (False, True)[:1 + (adapters and has_qwix())], dict.fromkeys((1, devices)),
      dict.fromkeys((1, share)), REMAT):
    yield Setting(rows(devices), accumulate, remat, fsdp, eight)


def rows(devices: int) -> int:
  """Rows of a global batch: as many for each device, and ``ROWS`` at least."""
  return devices * math.ceil(ROWS / devices)


def memory_limit() -> float:
  """Bytes that a program may use on the smallest local device; of a CPU its share of the host's."""
  stats = [device.memory_stats() for device in jax.local_devices()]
  if all(each and 'bytes_limit' in each for each in stats):
    return min(each['bytes_limit'] for each in stats)
  return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / len(stats)
