"""Each way to fine-tune, once, on the command line, from pipelines of several systems."""

import pathlib

import diffusers
import numpy as np
import peft
import pytest
import torch
from PIL import Image

from jaxgen import cli
from jaxgen.checkpoints.weights import load_weights
from jaxgen.conversion.pipelines import open_pipeline
from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.data.loader import make_loader
from jaxgen.finetuning import folder as folders
from jaxgen.finetuning.fit import EIGHT_BITS
from jaxgen.finetuning.recipe import recipe
from jaxgen.systems.registry import make_system
from tests.operations import local_hub
from tests.systems import tiny_pipelines
from tests.training.launched import metrics_of

SAVED = {'flux': tiny_pipelines.save_flux, 'qwen_image': tiny_pipelines.save_qwen_image,
         'qwen_image_edit': lambda folder: tiny_pipelines.save_qwen_image(
             folder, diffusers.QwenImageEditPipeline),
         'z_image': tiny_pipelines.save_z_image}
TOKENS = {'flux': 32, 'qwen_image': 176, 'z_image': 32}
STEPS = 12
INT8 = f'--config.model.quantized={EIGHT_BITS}'


@pytest.fixture(scope='module')
def images(tmp_path_factory) -> pathlib.Path:
  """Four drawings of one size, captions beside them."""
  folder = tmp_path_factory.mktemp('images')
  ramp = np.linspace(0, 255, 32, dtype=np.uint8)
  for index in range(4):
    pixels = np.full((32, 32, 3), 40 * index, np.uint8)
    pixels[..., index % 3] = ramp if index < 2 else ramp[:, None]
    Image.fromarray(pixels).save(folder / f'{index}.png')
    (folder / f'{index}.txt').write_text(f'drawing number {index}')
  return folder


@pytest.fixture(scope='module')
def bases(tmp_path_factory):
  """Name of a system -> its pipeline, saved when it is first asked for."""
  root, saved = tmp_path_factory.mktemp('bases'), {}

  def base(name: str) -> pathlib.Path:
    if name not in saved:
      saved[name] = pathlib.Path(SAVED[name](root / name))
    return saved[name]

  return base


@pytest.fixture(scope='module')
def finetuned(bases, images, tmp_path_factory):
  """``(name of a system, flags) -> workdir``, which is trained when it is first asked for."""
  root, done = tmp_path_factory.mktemp('ways'), {}

  def run(name: str, *flags: str) -> pathlib.Path:
    if (name, flags) not in done:
      done[name, flags] = root / str(len(done))
      assert cli.main(words(bases(name), images, done[name, flags], name, *flags)) == 0
    return done[name, flags]

  return run


def words(base, images, workdir, name, *flags):
  return ['finetune', f'--base={base}', f'--data={images}', f'--workdir={workdir}', '--size=32',
          f'--steps={STEPS}', f'--config.data.prompt_tokens={TOKENS[name]}',
          '--config.sampling.steps=1', f'--config.train.checkpoint_every={STEPS}',
          '--config.train.log_every=1', '--config.optimizer.learning_rate=0.02', *flags]


def losses(workdir):
  return np.array([line['loss'] for line in metrics_of(workdir, 'loss')])


@pytest.mark.slow
@pytest.mark.parametrize('name', ['qwen_image', 'z_image'])
def test_adapters_learn_over_eight_bits_as_over_floats(name, finetuned):
  """QLoRA's use: the base in int8, whatever the adapters are."""
  floats = losses(finetuned(name, '--lora=4', '--merge'))
  eight = finetuned(name, '--lora=4', INT8)
  assert len(floats) == STEPS and floats[-3:].mean() < 0.97 * floats[:3].mean()
  np.testing.assert_allclose(losses(eight).mean(), floats.mean(), rtol=0.02)
  np.testing.assert_allclose(losses(eight), floats, rtol=0.05)
  assert not np.array_equal(losses(eight), floats)
  assert list((eight / 'samples/validation').glob(f'{STEPS:06}_*/0000.png'))
  # The base that it is saved with, and exported from, has its floats.
  kernels = {path: leaf.dtype for path, leaf in trees.flatten(
      load_weights(str(eight), ['denoiser'])[0]).items() if path.endswith('/kernel')}
  assert set(kernels.values()) == {np.dtype('float32')}


@pytest.mark.slow
def test_a_merged_pipeline_is_the_base_with_its_adapters(bases, finetuned):
  run = finetuned('qwen_image', '--lora=4', '--merge')
  export = run / 'export'
  assert {'pipeline', 'peft', 'comfyui.safetensors'} <= {file.name for file in export.iterdir()}
  def transformer(place):
    return diffusers.QwenImageTransformer2DModel.from_pretrained(
        str(place), subfolder='transformer')

  before = transformer(bases('qwen_image')).state_dict()
  merged = transformer(export / 'pipeline').state_dict()
  adapted = peft.PeftModel.from_pretrained(
      transformer(bases('qwen_image')), str(export / 'peft')).merge_and_unload().state_dict()
  for name, value in adapted.items():
    torch.testing.assert_close(merged[name], value, atol=1e-5, rtol=1e-5)
  assert sum(not torch.equal(before[name], value) for name, value in merged.items()) > 12
  assert diffusers.DiffusionPipeline.from_pretrained(str(export / 'pipeline')).text_encoder


@pytest.mark.slow
def test_a_whole_denoiser_trains(bases, finetuned):
  run = finetuned('z_image', '--full')
  assert sorted(file.name for file in (run / 'export').iterdir()) == [
      'README.md', 'config.json', 'pipeline']
  card = (run / 'export/README.md').read_text()
  assert 'The denoiser of `' in card and "from_pretrained('pipeline')" in card
  before, after = (diffusers.DiffusionPipeline.from_pretrained(str(place)) for place in (
      bases('z_image'), run / 'export/pipeline'))
  changed = [name for name, tensor in before.transformer.state_dict().items()
             if not torch.equal(tensor, after.transformer.state_dict()[name])]
  assert len(changed) > 0.9 * len(before.transformer.state_dict())
  assert all(torch.equal(tensor, after.text_encoder.state_dict()[name])
             for name, tensor in before.text_encoder.state_dict().items())


@pytest.mark.slow
def test_text_towers_train_beside_the_denoiser(bases, finetuned, tmp_path):
  """What ``PeftModel`` and ``sample --lora`` make of the base is what was trained."""
  run = finetuned('flux', '--lora=2', '--text-lora=2')
  export, base = run / 'export', bases('flux')
  assert not (run / 'states').exists()
  card = (export / 'README.md').read_text()
  assert 'of rank 2 for the denoiser, of rank 2 for the text towers' in card
  trained, _ = load_weights(str(run), ['text_encoder', 'text_encoder_2'])
  pipeline = diffusers.DiffusionPipeline.from_pretrained(str(base))
  for group, component in (('text_encoder', 'text_encoder_2'), ('text_encoder_2', 'text_encoder')):
    assert f"PeftModel.from_pretrained(pipeline.{component}, 'peft_{component}')" in card
    moved = [np.abs(leaf).max() > 0 for path, leaf in trees.flatten(trained[group]).items()
             if path.endswith('lora/b')]
    assert len(moved) >= 6 and all(moved)
    model, tokenizer = getattr(pipeline, component), getattr(
        pipeline, component.replace('text_encoder', 'tokenizer'))
    tokens = tokenizer('drawing number 1', return_tensors='pt').input_ids
    with torch.no_grad():
      plain = model(tokens)[0]
      told = peft.PeftModel.from_pretrained(model, str(export / f'peft_{component}'))(tokens)[0]
    assert (told - plain).abs().max() > 1e-3
  names = ('comfyui.safetensors', 'peft_text_encoder', 'peft_text_encoder_2')
  drawn = []
  for flags in ([f'--workdir={run}'],
                [f'--base={base}', *(f'--lora={export}/{name}' for name in names)],
                [f'--base={base}', f'--lora={export}/{names[0]}']):
    out = tmp_path / str(len(drawn))
    assert cli.main(['sample', *flags, '--prompt=drawing number 1', '--size=32x32', '--steps=2',
                     f'--out={out}', *(['--config.data.prompt_tokens=32'] if len(flags) > 1 else [])
                     ]) == 0
    drawn.append(np.asarray(Image.open(out / '0000.png')).astype(int))
  assert np.mean(np.abs(drawn[0] - drawn[1]) <= 1) > 0.999
  assert np.abs(drawn[0] - drawn[2]).max() > 1


def test_adapters_on_top_of_a_run(finetuned, tmp_path):
  """Those of another run, added to the kernels that this one has trained itself."""
  run, other = finetuned('z_image', '--lora=4', '--merge'), finetuned('z_image', '--lora=4', INT8)
  drawn = {}
  for weight in ('', ':0', ':1'):
    out = tmp_path / f'out{weight[1:]}'
    added = [f'--lora={other}/export/comfyui.safetensors{weight}'] if weight else []
    assert cli.main(['sample', f'--workdir={run}', *added, '--prompt=drawing', '--size=32x32',
                     '--steps=2', f'--out={out}']) == 0
    drawn[weight] = np.asarray(Image.open(out / '0000.png')).astype(int)
  assert np.abs(drawn[''] - drawn[':0']).max() <= 1
  assert np.abs(drawn[''] - drawn[':1']).max() > 1


def test_an_editor_has_room_for_the_images_that_it_is_given(bases, tmp_path):
  """As latents and for its language model; a model of words alone refuses them."""
  rng = np.random.default_rng(0)
  for folder in ('target', 'control'):
    (tmp_path / folder).mkdir()
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / folder / 'a.png')
  (tmp_path / 'target/a.txt').write_text('make it blue')
  config = recipe(open_pipeline(str(bases('qwen_image_edit'))).config, str(tmp_path), rank=2,
                  size=32)
  config.data.update(reference_pixels=(32**2,), vision_area=56**2, prompt_tokens=400)
  config.data.dropout.all = 0.0
  system = make_system(config)
  found = folders.survey(str(tmp_path), config, system)
  assert found.tasks == {'edit': 1} and found.tokens == 2 * (32 // 8)**2
  config.data.visual_tokens = found.tokens
  loader = make_loader(config, system.layout)
  batch = next(loader).batch
  loader.close()
  assert batch.prompt.patches.shape[1] == config.data.patches > 0
  assert {25} == set(np.sum(batch.prompt.image_index >= 0, axis=1))  # tokens of 14 px
  words = recipe(open_pipeline(str(bases('qwen_image'))).config, str(tmp_path), rank=2, size=32)
  with pytest.raises(UserError, match='1 of 1 samples with given images: a.png; the system qwen'):
    folders.survey(str(tmp_path), words, make_system(words))


def test_a_finished_run_is_pushed_by_the_same_command(bases, images, finetuned, capsys):
  """A push that fails loses nothing."""
  run = finetuned('z_image', '--lora=4', INT8)
  again = [*words(bases('z_image'), images, run, 'z_image', '--lora=4', INT8),
           '--push-to=owner/drawings']
  with local_hub.logged_in() as hub:
    hub.refuses = '/commit/'
    assert cli.main(again) == 1
    assert 'run the command again' in capsys.readouterr().err
    hub.refuses = ''
    assert cli.main(again) == 0
    assert f'{hub.url}/owner/drawings' in capsys.readouterr().out
  export = run / 'export'
  assert hub.repositories['owner/drawings'] == {
      str(file.relative_to(export)): file.read_bytes()
      for file in export.rglob('*') if file.is_file()}


def test_a_workdir_of_another_run_is_left_alone(bases, images, finetuned, capsys):
  run = finetuned('z_image', '--lora=4', INT8)
  before = {file: file.stat().st_mtime_ns for file in (run / 'checkpoints').rglob('*')}
  assert cli.main(words(bases('z_image'), images, run, 'z_image', '--lora=8', INT8)) == 1
  said = capsys.readouterr().err.splitlines()[-1]
  assert 'config.model.lora.blocks.alpha = 8.0' in said and 'is a run with 4.0 there' in said
  assert before == {file: file.stat().st_mtime_ns for file in (run / 'checkpoints').rglob('*')}


@pytest.mark.parametrize('flags, message', [
    (['--full', '--text-lora=2'], '--text-lora = 2: trains beside adapters of the denoiser'),
    (['--lora=0'], '--lora = 0: use at least 1'),
    (['--steps=0'], 'config.train.steps = 0: '),
    (['--size=30'], '--size = 30: must be a multiple of 4'),
    (['--config.model.quantized=(("denoiser/nothing","int8"),)'], 'matches no kernel of a linear'),
    (['--validate=nowhere.txt'], "--validate = 'nowhere.txt': no such file"),
    (['--data=tests/nowhere'], "--data = 'tests/nowhere': no such file or folder"),
    (['--base=nobody/nothing'], "nobody/nothing"),
])
def test_flags_that_make_no_sense(flags, message, bases, images, tmp_path, capsys):
  """All of them before anything is cached or trained."""
  given = words(bases('flux'), images, tmp_path / 'run', 'flux')
  assert cli.main([word for word in given if not any(
      word.split('=')[0] == flag.split('=')[0] for flag in flags)] + flags) == 1
  assert message in capsys.readouterr().err.splitlines()[-1]
  assert not (tmp_path / 'run').exists()
