"""Memory of a training step of adapters for the published models, with frozen kernels in bf16 and in
eight bits, as the compiler of a device that need not be here lays it out.

  python tools/adapter_memory.py
  python tools/adapter_memory.py --only=z_image --topology=gpu:h100:1x8 --remat=attention

The step is that of `jaxgen finetune` with the sizes of the releases: rank 16, images of about 1024 x
1024 pixels, one row on each device, latents and states from caches. Every device holds the whole
denoiser. Prints rows of the table in docs/published.md; a compilation takes about 70 core-seconds.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
import tempfile

from ml_collections import ConfigDict

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from configs.flux import base as flux
from configs.qwen_image import base as qwen_image
from configs.z_image import base as z_image
from jaxgen.conversion.pipelines import make_config
from jaxgen.conversion.tables.pipelines import KINDS
from jaxgen.data.buckets import bucket_set
from jaxgen.data.cache import INFO_FILE
from jaxgen.data.states import SHAPE
from jaxgen.finetuning.fit import GIB
from jaxgen.finetuning.fit import Setting
from jaxgen.finetuning.recipe import recipe
from jaxgen.planning.plan import OPTIONS
from jaxgen.planning.program import compile_program
from jaxgen.planning.program import make_program
from jaxgen.planning.topology import devices_of
from jaxgen.planning.topology import parse
from jaxgen.systems.registry import make_system
from jaxgen.training.states import conditioning_shape

MODELS = {'flux': ('FluxPipeline', flux), 'qwen_image': ('QwenImagePipeline', qwen_image),
          'z_image': ('ZImagePipeline', z_image)}


def main() -> None:
  """Prints a row for each model and format."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--topology', default='tpu:v6e:2x2')
  parser.add_argument('--remat', default='full')
  parser.add_argument('--only', choices=tuple(MODELS))
  args = parser.parse_args()
  topology = parse(args.topology)
  devices = devices_of(topology)
  print('| model | frozen kernels | adapters and optimizer, GiB | frozen, GiB | activations, GiB '
        f'| peak on {topology.name}, GiB |\n|---|---|---|---|---|---|')
  for name in [args.only] if args.only else MODELS:
    for eight in (False, True):
      with tempfile.TemporaryDirectory() as folder:
        config = finetuned(name, folder)
        setting = Setting(len(devices), 1, args.remat, 1, eight)
        found = compile_program(make_program(setting.applied(config).lock(), devices),
                                OPTIONS[topology.is_tpu]).memory
      print(f'| `{name}` | {"int8" if eight else "bf16"} '
            f'| {(found.parameters + found.optimizer) / GIB:.2f} | {found.frozen / GIB:.2f} '
            f'| {found.temporary / GIB:.2f} | {found.peak / GIB:.1f} of '
            f'{topology.chip.hbm_bytes / GIB:.0f} |', flush=True)


def finetuned(name: str, states: str) -> ConfigDict:
  """The config of a run of adapters whose caches are written; ``states`` is an empty folder."""
  kind, module = MODELS[name]
  config = recipe(make_config(KINDS[kind], module.SECTIONS, module.SCHEDULER, 'weights'), 'images',
                  rank=16, size=1024)
  latent = make_system(config).layout.latent
  tokens = max(height * width for height, width in bucket_set(config.data.buckets))
  tokens //= latent.factor**2
  config.data.visual_tokens = -(-tokens // latent.multiple) * latent.multiple
  shape = conditioning_shape(config, make_system(config))
  (pathlib.Path(states) / INFO_FILE).write_text(json.dumps({SHAPE: dataclasses.asdict(shape)}))
  config.data.update(cache=states, states=states)
  return config


if __name__ == '__main__':
  main()
