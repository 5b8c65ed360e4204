"""What a fine-tuned run leaves: adapter files or a whole pipeline, and a model card."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from jaxgen.config import to_json
from jaxgen.conversion import lora_files
from jaxgen.conversion.adapters import NAMES
from jaxgen.conversion.adapters import TOWER
from jaxgen.conversion.adapters import export_adapters
from jaxgen.conversion.pipeline_export import export_pipeline
from jaxgen.core.files import is_hub_id
from jaxgen.core.files import write_text

FOLDER, PIPELINE, CARD = 'export', 'pipeline', 'README.md'
_LOADED = {
    True: '''pipeline = DiffusionPipeline.from_pretrained({base!r})
pipeline.load_lora_weights({name!r})''',
    False: 'pipeline = DiffusionPipeline.from_pretrained({name!r})'}
_TOWER = '''
pipeline.{component} = PeftModel.from_pretrained(pipeline.{component}, {name!r})'''
_CARD = '''---
{origin}library_name: diffusers
tags:
- {kind}
- jaxgen
---

# {title}

{what} of `{base}`, trained with jaxgen.

```python
from diffusers import DiffusionPipeline
from diffusers.utils import load_image
{peft}
{loading}
image, = pipeline({call}).images
```

| | |
|---|---|
| base | `{base}` |
| data | {data} |
| steps | {steps} of {rows} images |
| learning rate | {learning_rate:g} |
| sizes | `{buckets}` |
{files}
`config.json` is the whole configuration.
'''
_FILES = {'diffusers': 'diffusers: `load_lora_weights`',
          'comfyui': 'ComfyUI and kin: `models/loras`',
          'peft': 'PEFT: `PeftModel.from_pretrained`'}


def deliver(config: ConfigDict, workdir: str, base: str, facts: Mapping[str, Any], *,
            merge: bool) -> list[str]:
  """Writes ``export/`` of a workdir anew.

  Args:
    config: of the run.
    workdir: of the run.
    base: the pipeline as the user named it.
    facts: ``data`` and the ``call`` of the pipeline, in words.
    merge: also a whole pipeline with the adapters in their kernels; without adapters there is
      always one.

  Returns:
    Paths of what was written.

  Raises:
    UserError: nothing was saved, or it cannot be written.
  """
  out = epath.Path(workdir) / FOLDER
  if out.exists():
    out.rmtree()
  adapters = bool(config.model.lora)
  paths = export_adapters(workdir, str(out), base=base) if adapters else []
  if merge or not adapters:
    export_pipeline(workdir, str(out / PIPELINE), base=base)
    paths.append(str(out / PIPELINE))
  names = [epath.Path(path).name for path in paths]
  write_text(out / CARD, card(config, base, facts, epath.Path(workdir).resolve().name,
                              [name for name in names if name.startswith(TOWER)]))
  write_text(out / 'config.json', to_json(config))
  return [*paths, str(out / CARD)]


def card(config: ConfigDict, base: str, facts: Mapping[str, Any], title: str,
         towers: Sequence[str] = ()) -> str:
  """The model card; see ``deliver``. ``towers``: folders of adapters of text towers."""
  adapters, text = (config.model.lora.get(name) for name in ('blocks', 'text'))
  what = f'Adapters of rank {adapters.rank} for the denoiser' if adapters else 'The denoiser'
  name = NAMES['diffusers'] if adapters else PIPELINE
  files = {NAMES[style]: _FILES[style] for style in lora_files.STYLES} if adapters else {}
  loading = _LOADED[bool(adapters)].format(base=base, name=name)
  if text:
    what += f', of rank {text.rank} for the text towers'
  for name in towers:
    component = name.removeprefix(TOWER)
    files[name] = f'PEFT: `PeftModel.from_pretrained(pipeline.{component}, ...)`'
    loading += _TOWER.format(component=component, name=name)
  return _CARD.format(
      base=base, origin=f'base_model: {base}\n' if is_hub_id(base) else '',
      kind='lora' if adapters else 'full-fine-tuning', title=title, what=what,
      peft='from peft import PeftModel\n' if text else '', loading=loading, call=facts['call'],
      data=facts['data'], steps=config.train.steps, rows=config.train.rows,
      learning_rate=config.optimizer.learning_rate, buckets=config.data.buckets,
      files=''.join(f'| `{name}` | {use} |\n' for name, use in files.items()))
