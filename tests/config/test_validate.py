"""Broken configs fail at once, before any device work, naming the field, the value and the fix."""

import functools
import json

import pytest

from jaxgen.config import base_config
from jaxgen.config import from_json
from jaxgen.config import load_config
from jaxgen.config import schema
from jaxgen.config import source
from jaxgen.config import to_json
from jaxgen.config import validate
from jaxgen.config.validate import CHOICES
from jaxgen.core.errors import UserError
from jaxgen.data.sample import IMAGE_ROLES
from jaxgen.data.sources import KINDS
from jaxgen.data.sources.named import PRESETS
from jaxgen.data.tasks import TASKS
from jaxgen.sampling.solvers import SOLVERS

CONFIG = '''
from jaxgen.config import base_config, lora, source

def get_config():
  config = base_config()
  config.data.tokenizer = 'runs/tokenizer'
  config.data.sources.photos = source('folder', 'image', path='photos', share=(1.0, 0.5))
  config.data.sources.pairs = source('jsonl', 'pair', path='pairs.jsonl', share=(0.0, 0.5))
  config.validation.sources.held = source('jsonl', 'pair', path='held.jsonl')
  config.model.lora.out = lora('denoiser/.*_out', rank=4, alpha=4.0)
  return config
'''
SOURCES = 'config.data.sources'

# What is set, and what the line must say besides the field and the value: the fix.
BROKEN = {
    'model.compute_dtype=float16': 'float32, bfloat16',
    'model.mask_ratio=1.5': '0 to 1',
    'model.lora.out.rank=0': 'above 0',
    'model.lora.out.alpha=-1.0': 'above 0',
    'model.lora.out.modules=denoiser/(': 'not a regular expression',
    'seed=4294967296': 'use 0 to 4294967295',
    'sampling.guidance=1e30': 'use 0 to 100',
    'sampling.image_guidance=-3.0': '0 or more',
    'data.image_size=0': 'above 0',
    'data.prompt_tokens=-1': 'above 0',
    'data.segments_per_row=0': 'above 0',
    'data.dropout.all=-0.1': '0 to 1',
    'data.dropout.latents=1.5': '0 to 1',
    'data.shown=some': 'all, text, queries',
    'data.fit=squash': 'crop, pad, stretch',
    'data.references=own': 'bucket, native, area',
    'sampling.renormalize=row': 'none, token, image',
    'data.vision_area=-1': '0 or more',
    'data.oversize=drop': 'refuse, skip',
    'data.interpolation=cubic': 'linear, step',
    "data.clean_roles=('source', 'refrence')": 'some of context, source, reference',
    'data.reference_pixels=()': 'above 0',
    'data.reference_pixels=(1048576, 0)': 'above 0',
    'data.vision_pixels=(3136,)': 'the smallest and the largest',
    'data.vision_pixels=(1003520, 3136)': 'the smallest and the largest',
    'data.look_ahead=-1': '0 or more',
    'data.max_references=-1': '0 or more',
    'data.image_sizes=0': 'above 0',
    'data.max_bad_share=2.0': '0 to 1',
    'data.pair_prompt=Generate an image': '{caption}',
    'data.edit_prompt=Edit': '{caption}',
    'data.tokenizer=': 'jaxgen data tokenizer',
    'data.sources.photos.kind=ftp': 'use one of auto, shapes, folder, controls',
    'data.sources.photos.task=draw': 'use one of auto, image, pair, caption',
    'data.sources.photos.path=': 'needs a path',
    'data.sources.photos.split=dev': 'train, test, validation',
    'data.sources.photos.share=(-1.0,)': '0 or more',
    'data.sources.photos.share=()': 'one or more',
    'data.sources.photos.limit=-5': '0 for all',
    'objective.timesteps=cosine': 'logit_normal, uniform',
    'objective.timestep_shift=0.0': 'above 0',
    'objective.flow_matching=0.0': 'nothing to learn',
    'objective.next_token=1.0': 'task caption',
    'optimizer.name=sgd': 'adamw, muon',
    'optimizer.schedule=linear': 'constant, cosine',
    'optimizer.learning_rate=-0.1': 'above 0',
    'optimizer.b2=1.0': 'not including, 1',
    'optimizer.moments_dtype=float16': 'float32, bfloat16',
    'optimizer.memory=disk': 'device, host',
    'optimizer.ema_decay=1.0': 'not including, 1',
    'optimizer.warmup_steps=5000': 'train.steps = 1000',
    'optimizer.clip_norm=0.0': 'above 0',
    'train.steps=0': 'above 0',
    'train.accumulate=3': 'use one of [1, 2, 4, 8]',
    'train.keep=0': 'above 0',
    'mesh.fsdp=0': '1 or more, or -1',
    'mesh.tensor=-1': 'mesh.data is -1 already',
    "mesh.rules=(('keys', 'context', True),)": "as ('keys', ('context',), True)",
    "mesh.rules=(('heads', ('tensr',), True),)": 'tuple of context, data, fsdp, tensor',
    'trainable=((".*", False),)': 'nothing trains',
    'init_from.weights=latest': 'ema, params',
    'sampling.steps=0': 'above 0',
    'sampling.guidance=-1.0': '0 or more',
    'sampling.solver=heun': 'euler, unipc',
    'sampling.rows=0': 'above 0',
    'sampling.last_level=1.5': '0 to 1',
    'sampling.size_shift=(256, 0.5)': 'two points of a line',
    'sampling.size_shift=(256, 0.5, 256, 1.15)': 'two numbers of tokens',
    'validation.every=-1': '0 or more',
    'validation.batches=0': 'above 0',
    'validation.seed=4294967296': 'use 0 to 4294967295',
    'validation.weights=all': 'ema, params, both',
    'validation.sources.held.split=dev': 'train, test, validation',
    'validation.sources.held.share=(-1.0,)': '0 or more',
}


@pytest.fixture
def config_file(tmp_path):
  file = tmp_path / 'config.py'
  file.write_text(CONFIG)
  return str(file)


def check(error: pytest.ExceptionInfo, *parts: str) -> None:
  message = str(error.value)
  assert '\n' not in message
  for part in parts:
    assert part in message, message


def test_sound_config_passes(config_file):
  validate(load_config(config_file))


@pytest.mark.parametrize('override', BROKEN)
def test_broken_value(config_file, override):
  config = load_config(config_file, [override])
  field = override.partition('=')[0]
  value = functools.reduce(lambda node, name: node[name], field.split('.'), config)
  with pytest.raises(UserError) as error:
    validate(config)
  check(error, f'config.{field} = {value!r}: ', BROKEN[override])


@pytest.mark.parametrize('override, shown, fix', [
    ('trainable=(("(", True),)', "config.trainable = '(': ", 'not a regular expression'),
    ('model.quantized=(("mllm/.*", "int4"),)', "config.model.quantized = ('mllm/.*', 'int4'): ",
     'one of int8, fp8'),
    ('model.quantized=(("(", "int8"),)', "config.model.quantized = '(': ", 'not a regular'),
    ('trainable=((".*", 1),)', "config.trainable = ('.*', 1): ", '(regex, True or False)'),
])
def test_broken_part_of_a_value(config_file, override, shown, fix):
  config = load_config(config_file, [override])
  with pytest.raises(UserError) as error:
    validate(config)
  check(error, shown, fix)


@pytest.mark.parametrize('override, fix', {
    'train.stpes=5': "no such field; known: ['accumulate'",
    'trian.steps=5': "no such section; known: ['data'",
    'train=5': 'this is a section',
    'train.steps=many': 'must be int',
    'train.steps=5.0': 'must be int',
    'optimizer.learning_rate=fast': 'must be float',
    'train.steps': 'write --config.section.key=value',
}.items())
def test_broken_override(config_file, override, fix):
  with pytest.raises(UserError) as error:
    load_config(config_file, [override])
  check(error, override.partition('=')[0], fix)


def test_slow_moments_want_whole_floats(config_file):
  config = load_config(config_file, ['optimizer.moments_dtype=bfloat16', 'optimizer.b2=0.999'])
  with pytest.raises(UserError) as error:
    validate(config)
  check(error, "config.optimizer.moments_dtype = 'bfloat16'", 'b2 up to 0.98 in place of 0.999')


def test_rows_must_fill_the_mesh(config_file):
  config = load_config(config_file, ['mesh.data=3'])
  with pytest.raises(UserError) as error:
    validate(config)
  check(error, 'config.train.rows', '8', 'multiple of mesh.data x mesh.fsdp = 3')


def test_no_sources():
  config = base_config()
  config.data.tokenizer = 'somewhere'
  with pytest.raises(UserError) as error:
    validate(config)
  check(error, SOURCES, 'at least one')


def test_shares_that_vanish(config_file):
  config = load_config(config_file, ['data.sources.photos.share=(1.0, 0.0)',
                                     'data.sources.pairs.share=(1.0, 0.0)'])
  with pytest.raises(UserError) as error:
    validate(config)
  check(error, SOURCES, 'all shares are 0 at 100% of training')


def test_captions_alone_give_no_image():
  config = base_config()
  config.data.tokenizer = 'somewhere'
  config.data.sources.shapes = source('shapes', 'caption')
  with pytest.raises(UserError) as error:
    validate(config)
  check(error, 'config.objective.flow_matching', '1.0', 'set it to 0')


@pytest.mark.parametrize('body, fix', {
    'def get_config():\n  return base_config().data.size': 'size',
    'def get_config():\n  c = base_config()\n  c.train.steps = "many"\n  return c': 'TypeError',
    'def get_config():\n  c = base_config()\n  c.lock()\n  c.nothing = 1\n  return c': 'nothing',
    'steps = 5': 'AttributeError: module',
    'def get_config(): pass': 'must return a config, as base_config() makes, and not NoneType',
    'def get_config(:': 'line 2: SyntaxError',
    'import nothing_like_it': 'line 2: ModuleNotFoundError',
    'def get_config():\n  return [][1]': 'line 3: IndexError',
    'get_config = "\0"': 'null bytes',
}.items())
def test_broken_config_file(tmp_path, body, fix):
  file = tmp_path / 'broken.py'
  file.write_text(f'from jaxgen.config import base_config\n{body}\n')
  with pytest.raises(UserError) as error:
    load_config(str(file))
  check(error, 'broken.py', fix)


@pytest.mark.parametrize('name', ['c.py', 'a:b/c.py', 'a:b/c:d.py', 'config'])
@pytest.mark.parametrize('argument', ['', 'x', 'x:y'])
def test_a_colon_may_stand_in_the_path(name, argument, tmp_path):
  file = tmp_path / name
  file.parent.mkdir(exist_ok=True)
  file.write_text('from jaxgen.config import base_config\n'
                  'def get_config(text="none"):\n'
                  '  config = base_config()\n'
                  '  config.data.cache = text\n'
                  '  return config')
  path = f'{file}:{argument}' if argument else str(file)
  assert load_config(path).data.cache == (argument or 'none')


def test_a_folder_is_no_config(tmp_path):
  with pytest.raises(UserError, match='is a folder; name a Python file with get_config'):
    load_config(str(tmp_path))


def test_missing_config_file():
  with pytest.raises(UserError) as error:
    load_config('configs/none.py')
  check(error, 'configs/none.py', 'no such file')


def test_configs_that_ship_are_found_from_any_folder_and_ones_own_come_first(tmp_path, monkeypatch):
  ours = load_config('configs/iomm/quickstart.py:mllm')
  monkeypatch.chdir(tmp_path)
  assert load_config('configs/iomm/quickstart.py:mllm').to_dict() == ours.to_dict()
  own = tmp_path / 'configs/iomm/quickstart.py'
  own.parent.mkdir(parents=True)
  own.write_text('from jaxgen.config import base_config as get_config')
  assert load_config('configs/iomm/quickstart.py').train.steps == base_config().train.steps


def test_json_gives_the_config_back(config_file):
  config = load_config(config_file, ['train.steps=7', 'optimizer.learning_rate=1'])
  again = from_json(to_json(config))
  assert again.to_dict() == config.to_dict()
  assert again.train.steps == 7 and again.optimizer.learning_rate == 1.0
  assert again.is_locked
  validate(again)


def test_json_written_before_a_field_existed():
  """The field has its default; without its section there are no adapters."""
  config = base_config()
  config.data.sources.pairs = source('shapes', 'pair')
  values = config.to_dict()
  del values['model']['lora'], values['data']['look_ahead'], values['init_from']['changes']
  del values['data']['sources']['pairs']['size'], values['data']['sources']['pairs']['root']
  assert from_json(json.dumps(values)).to_dict() == config.to_dict()


def test_json_of_something_else():
  with pytest.raises(UserError) as error:
    from_json('{"seed": 1}')
  check(error, 'config.json', 'jaxgen workdir')


def test_a_json_of_another_encoding_is_named(tmp_path):
  file = tmp_path / 'saved.json'
  for content, reason in ((b'{"seed": "\xff"}', 'UTF-8'), (b'{"seed": ', 'is damaged')):
    file.write_bytes(content)
    with pytest.raises(UserError) as error:
      load_config(str(file))
    check(error, str(file), reason)


def test_the_names_that_configs_may_use_are_those_that_the_data_floor_has():
  assert set(schema.SOURCE_KINDS) == set(KINDS)
  assert set(schema.PUBLIC_SETS) == set(PRESETS)
  assert set(schema.SOURCE_TASKS) == {'auto', *TASKS}
  assert set(schema.GIVEN_ROLES) == {*IMAGE_ROLES} - {'target'}
  assert set(CHOICES['sampling.solver']) == set(SOLVERS)
