"""iMontage: where its images stand, guidance, presets, job files, and what it refuses."""

import copy
import json
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

from configs.imontage import shapes
from jaxgen import cli
from jaxgen.checkpoints.weights import save_weights
from jaxgen.config import to_json
from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.core.types import Batch
from jaxgen.core.types import Tower
from jaxgen.data.examples import ExampleMaker
from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample
from jaxgen.data.sources import open_source
from jaxgen.data.tasks import worded
from jaxgen.sampling.generate import generate
from jaxgen.sampling.jobs import read_job
from jaxgen.sampling.request import make_request
from jaxgen.sampling.request import request_of
from jaxgen.systems.imontage import IMontage
from jaxgen.systems.registry import make_system
from jaxgen.systems.registry import with_preset
from tests.sampling.test_generate import Runner
from tests.sampling.test_generate import near
from tests.sampling.test_generate import picture

IMAGE = np.full((16, 16, 3), 200, np.uint8)


@pytest.fixture(scope='module')
def config(tiny_tokenizer):
  made = shapes.tiny()
  for group in ('text_encoder', 'text_encoder_2'):
    made.data.tower_tokenizers[group] = tiny_tokenizer
  made.data.prompt_tokens = 256
  made.model.text_encoder.update(width=32, layers=3, mlp=64)
  made.model.text_encoder_2.update(width=16, positions=256)
  made.model.denoiser.update(cond_dim=32, pooled_dim=16, width=32, heads=2, double_blocks=1,
                             single_blocks=1, axes_dims=(4, 6, 6))
  return made


@pytest.fixture(scope='module')
def system(config):
  return make_system(config)


def test_images_take_the_released_time_indices(config, system):
  maker = ExampleMaker.of(config, system.layout)
  source = open_source('shapes', 'storyboard', size=16)
  seen = set()
  for index in range(12):
    sample = worded(source[index], 'many_to_many', config.data)
    images = maker(sample).images
    times = [set(image.positions[:, 0].tolist()) for image in images]
    given = sum(not image.is_target for image in images)
    drawn = len(images) - given
    assert times == [{time} for time in (*(0, 2, 4, 7)[:given], *(24, 26, 28, 31)[:drawn])]
    for image in images:  # each has its own (h, w)
      assert image.positions[:, 1:].tolist() == [[row, column] for row in range(4)
                                                 for column in range(4)]
    seen.add((given, drawn))
  assert len(seen) > 3


def test_guidance_keeps_the_references(config, system):
  request = make_request(config, 'turn left', source=[IMAGE], outputs=3)
  (scale, told), (rest, untold) = system.branches(request.sample, {'text': 6.0})
  assert (scale, rest) == (6.0, -5.0) and told == request.sample
  assert [part.role for part in untold.images] == ['source'] + ['target'] * 3
  assert not any(part.text for part in untold.texts)
  assert system.branches(request.sample, {'text': 1.0}) == [(1.0, request.sample)]


def test_the_denoiser_is_told_states_a_pooled_vector_and_a_guidance_scale(config, system):
  ids, flags, places = (jax.ShapeDtypeStruct(shape, kind) for shape, kind in (
      ((2, 3, 256), np.int32), ((2, 3, 256), bool), ((2, 3, 256, 3), np.int32)))
  towers = dict.fromkeys(('text_encoder', 'text_encoder_2'), Tower(ids, flags, flags, places))
  batch = Batch(None, None, None, towers)
  found = jax.eval_shape(system.condition, system.shapes(list(towers)), batch)
  assert found.states.shape == (2, 3 * 256, 32)
  assert found.pooled.shape == (2, 3, 16) and found.guidance.shape == (2, 3)


@pytest.mark.parametrize('images, outputs, said', [
    (9, 1, "^prompt 'a story': input images = 9: the scheme marginal has 8"),
    (1, 9, "^prompt 'a story': output images = 9: the scheme marginal has 8")])
def test_more_images_than_time_indices_are_refused(config, system, images, outputs, said):
  request = make_request(config, 'a story', reference=[IMAGE] * images, outputs=outputs)
  with pytest.raises(UserError, match=said):
    ExampleMaker.of(config, system.layout)(request.sample)


def test_a_seed_gives_the_same_images_of_mixed_sizes_on_any_number_of_devices(config, system):
  """Sizes that differ between requests and within one, in one solve."""
  config = copy.deepcopy(config)
  config.sampling.steps = 2
  runner, sizes = Runner(config, system), [(16, 8), (8, 16), (12, 12)]
  told = Sample('three', (Part('reference', image=picture(2)), Part('user', text='a cross'),
                          *(Part('target', loss=True, size=size) for size in sizes)),
                task='many_to_many')
  requests = [
      make_request(config, 'a red circle', size=(8, 8), seed=5, number=0),
      make_request(config, 'turn left', source=[picture(1)], size=(16, 24), seed=5, number=1),
      request_of(config, told, seed=6, number=2)]
  assert jax.device_count() == 8
  one, eight = (generate(system, runner.params, requests, maker=runner.maker, config=config,
                         mesh=mesh) for mesh in (runner.mesh, None))
  for drawn in (one, eight):
    assert [image.shape[:2] for images in drawn for image in images] == [(8, 8), (16, 24), *sizes]
    assert all(near(left, right) and left.std() > 10 for images, others in zip(drawn, one)
               for left, right in zip(images, others, strict=True))


def test_presets_are_what_was_published(config):
  config = copy.deepcopy(config)
  config.data.empty_prompt, config.model.guidance = 'nothing', 2.0
  paper, released = (with_preset(config, name) for name in ('paper', 'released'))
  assert set(IMontage.presets) == {'paper', 'released'}
  for found, shift, told, words in ((paper, 5.0, 2.0, 'nothing'), (released, 7.0, 1.0, (
      'Aerial view, aerial view, overexposed, low quality, deformation, a poor composition, bad '
      'hands, bad teeth, bad eyes, bad limbs, distortion'))):
    assert (found.sampling.steps, found.sampling.guidance) == (50, 6.0)
    assert found.sampling.timestep_shift == shift and found.sampling.solver == 'euler'
    system = make_system(found)
    assert (system.guidance, system.negative_prompt) == (told, words)
  assert with_preset(config, '') is config and config.sampling.steps == 20


def test_flags_win_over_a_preset(config, system, tmp_path, capsys):
  """The command draws what a run does whose config says all of it."""
  plain, explicit = copy.deepcopy(config), with_preset(config, 'released')
  explicit.sampling.update(steps=2, guidance=3.0)
  params = Runner(config, system).params
  for name, saved in (('plain', plain), ('explicit', explicit)):
    save_weights(str(tmp_path / name), params, to_json(saved))

  def sample(workdir, *flags):
    out = tmp_path / f'out{len(list(tmp_path.glob("out*")))}'
    assert cli.main(['sample', f'--workdir={tmp_path / workdir}', '--prompt=a cross',
                     f'--out={out}', *flags]) == 0
    return (out / '0000.png').read_bytes()

  flags = ('--steps=2', '--guidance=3')
  expected = sample('explicit')
  assert sample('plain', '--preset=released', *flags) == expected
  assert sample('plain', *flags) != expected
  capsys.readouterr()
  for command in (['sample', '--prompt=a cross', f'--out={tmp_path / "none"}'], ['evaluate']):
    assert cli.main([*command, f'--workdir={tmp_path / "plain"}', '--preset=best']) == 1
    assert capsys.readouterr() == ('', "jaxgen: --preset = 'best': use one of paper, released\n")


# Entries as in the job file of the release: its tasks, numbers of images and sizes.
RELEASED = {
    '0': ('image_editing', 'Paint the wall green.', ['wall.png'], (416, 640), 1),
    '1': ('cref', 'The man from the first image waves.', ['man.png', 'dog.png', 'hat.png'],
          (1024, 1024), 1),
    '2': ('conditioned_cref', 'depth', ['depth.png', 'man.png'], (1024, 1024), 1),
    '3': ('sref', '', ['man.png', 'comic.png'], (1024, 1024), 1),
    '4': ('multiview', '1. Pan left. 2. Look up. 3. Zoom out.', ['wall.png'], (416, 640), 3),
    '5': ('storyboard', 'Old film: 1. He walks. 2. He sits. 3. He eats.', ['man.png', 'dog.png'],
          (604, 1024), 3),
}
SHADES = {'wall': 10, 'man': 60, 'dog': 110, 'hat': 160, 'depth': 210, 'comic': 250}


@pytest.fixture
def release(tmp_path, monkeypatch) -> pathlib.Path:
  """The folder of the release: assets/prompt.json, whose paths begin at the folder."""
  (tmp_path / 'assets/images').mkdir(parents=True)
  for name, shade in SHADES.items():  # of odd sizes, which the release crops in place
    pixels = np.full((37 + shade, 51, 3), shade, np.uint8)
    Image.fromarray(pixels).save(tmp_path / f'assets/images/{name}.png')
  (tmp_path / 'assets/prompt.json').write_text(json.dumps({
      number: dict(task_type=task, prompts=prompts, images=[f'assets/images/{name}'
                                                            for name in names],
                   height=height, width=width, output_num=outputs)
      for number, (task, prompts, names, (height, width), outputs) in RELEASED.items()}))
  monkeypatch.chdir(tmp_path)
  return tmp_path


def test_the_control_map_comes_first_and_the_style_second(config, system, release):
  maker = ExampleMaker.of(config, system.layout)
  for request, entry in zip(read_job('assets/prompt.json', config, factor=32), RELEASED.values(),
                            strict=True):
    given = [image for image in maker(request.sample).images if not image.is_target]
    assert [int(image.pixels[0, 0, 0]) for image in given] == [
        SHADES[name.removesuffix('.png')] for name in entry[2]]
    assert [set(image.positions[:, 0].tolist()) for image in given] == [
        {time} for time in (0, 2, 4)[:len(given)]]


def test_both_towers_read_the_names_of_the_images(config, system):
  config = copy.deepcopy(config)
  config.data.placeholders = True
  config.data.edit_prompt = 'Please output {outputs} images according to the instruction: {caption}'
  request = make_request(config, 'both on a bench', reference=[IMAGE] * 2, outputs=3)
  maker = ExampleMaker.of(config, system.layout)
  said = 'Please output 3 images according to the instruction: <image_1> <image_2> both on a bench'
  for group, prompt in maker(request.sample).towers.items():
    tokenizer = maker.towers[group].tokenizer
    assert tokenizer.decode(prompt.tokens[prompt.mask].tolist()).strip() == said
  _, (_, untold) = system.branches(request.sample, {'text': 6.0})
  assert not any(part.text for part in untold.texts)


@pytest.fixture(scope='module')
def workdir(config, tmp_path_factory) -> str:
  """Random weights of a tiny model whose latent tokens have 32 pixels a side."""
  made = copy.deepcopy(config)
  made.model.autoencoder.factor = 16
  made.model.text_encoder.update(width=32, layers=3, heads=4, mlp=64)
  made.model.text_encoder_2.width = 16
  made.model.denoiser.update(
      in_channels=3072, out_channels=3072, cond_dim=32, pooled_dim=16, width=32, heads=2,
      double_blocks=1, single_blocks=1, axes_dims=(4, 6, 6))
  made.data.update(image_size=64, references='native', reference_pixels=(128**2,),
                   segments_per_row=1)
  made.sampling.update(steps=1, guidance=1.0)
  rng = np.random.default_rng(0)
  params = trees.map_named(lambda _, leaf: np.float32(rng.normal(0.0, 0.05, leaf.shape)),
                           make_system(made).shapes())
  folder = str(tmp_path_factory.mktemp('imontage') / 'run')
  save_weights(folder, params, to_json(made))
  return folder


def test_the_job_file_of_the_release_runs_unchanged(workdir, release, capsys):
  inputs = [*(release / 'assets/images').iterdir(), release / 'assets/prompt.json']
  before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in inputs}
  words = ['sample', f'--workdir={workdir}', '--job=assets/prompt.json', '--out=out']
  assert cli.main(words) == 0
  out, err = capsys.readouterr()
  drawn = {file.name: np.asarray(Image.open(file)) for file in map(pathlib.Path, out.split())}
  assert list(drawn) == ['0000.png', '0001.png', '0002.png', '0003.png',
                         *(f'0004_{view}.png' for view in range(3)),
                         *(f'0005_{panel}.png' for panel in range(3))]
  sizes = [(416, 640), *[(1024, 1024)] * 3, *[(416, 640)] * 3, *[(608, 1024)] * 3]
  assert [image.shape[:2] for image in drawn.values()] == sizes
  assert [line for line in err.splitlines() if 'drawn as' in line] == [
      'assets/prompt.json["5"]: 604x1024 is drawn as 608x1024, multiples of 32 pixels']
  for number in '45':  # outputs of one request have noise of their own
    assert (drawn[f'000{number}_0.png'] != drawn[f'000{number}_1.png']).any()
  assert {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in inputs} == before
  assert sorted(path.name for path in release.iterdir()) == ['assets', 'out']


@pytest.mark.parametrize('words, said', [
    (['--size=48'], "jaxgen: prompt 'a cat': size = (48, 48): both sides must be multiples of 32, "
     'the pixels along a latent token, as 64x64\n'),
    (['--outputs=9'], "jaxgen: prompt 'a cat': output images = 9: the scheme marginal has 8 time "
     'indices for them; use fewer, or per_image\n'),
    (['--reference=assets/images/man.png'] * 9, "jaxgen: prompt 'a cat': input images = 9: the "
     'scheme marginal has 8 time indices for them; use fewer, or per_image\n'),
    (['--task=sketch'], "jaxgen: prompt 'a cat': task = 'sketch': use auto, or one of pair, edit, "
     'transformation, reference, many_to_many, dialogue\n'),
    (['--reference=none.png'], "jaxgen: --reference = 'none.png': no such file\n"),
])
def test_what_cannot_be_drawn_is_said_before_weights_are_read(config, release, capsys, words, said):
  """The workdir has a config and no weights."""
  made = copy.deepcopy(config)
  made.model.autoencoder.factor = 16
  made.model.denoiser.update(in_channels=3072, out_channels=3072)
  made.data.image_size = 64
  (release / 'config.json').write_text(to_json(made))
  assert cli.main(['sample', '--workdir=.', '--prompt=a cat', '--out=out', *words]) == 1
  assert capsys.readouterr() == ('', said)
