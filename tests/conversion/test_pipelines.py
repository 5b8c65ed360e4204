"""Whole pipelines: what is found and fetched, and what is said where something is wrong."""

import json
import pathlib
import shutil
import types

import huggingface_hub
import pytest
from huggingface_hub import errors
from huggingface_hub.utils import filter_repo_objects

from jaxgen import cli
from jaxgen.config import to_json
from jaxgen.conversion.locate import locate_pipeline
from jaxgen.conversion.pipelines import open_pipeline
from jaxgen.conversion.tables.pipelines import levels
from jaxgen.core.errors import UserError
from tests.systems import tiny_pipelines


@pytest.fixture(scope='module')
def published(tmp_path_factory) -> pathlib.Path:
  return pathlib.Path(tiny_pipelines.save_flux(tmp_path_factory.mktemp('pipelines') / 'flux'))


@pytest.fixture
def folder(published, tmp_path) -> pathlib.Path:
  """A copy to spoil."""
  return pathlib.Path(shutil.copytree(published, tmp_path / 'flux'))


def refused(folder, *texts):
  with pytest.raises(UserError) as error:
    open_pipeline(str(folder))
  assert '\n' not in str(error.value)
  for text in texts:
    assert text in str(error.value), (text, str(error.value))


def test_the_config_names_every_component(published):
  config = open_pipeline(str(published)).config
  assert config.system == 'flux' and config.model.denoiser.guidance_embed
  assert config.init_from.text_encoder == str(published / 'text_encoder_2')
  assert config.data.tower_tokenizers.text_encoder_2 == str(published / 'tokenizer')
  assert config.sampling.size_shift == (256, 0.5, 4096, 1.15)
  assert config.model.compute_dtype == 'float32'


def edit(file: pathlib.Path, **fields):
  file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def test_folders_that_are_no_known_pipeline(folder, tmp_path):
  edit(folder / 'model_index.json', _class_name='StableDiffusionPipeline')
  refused(folder, "model_index.json = 'StableDiffusionPipeline'", 'known: FluxPipeline, FluxKontext')
  (folder / 'model_index.json').write_text('{')
  refused(folder, 'model_index.json: damaged')
  refused(folder / 'vae', 'has no model_index.json; give the folder of a whole pipeline: FluxPipel')
  (tmp_path / 'run/checkpoints').mkdir(parents=True)
  refused(tmp_path / 'run', 'a folder of jaxgen, which --workdir takes')
  refused(tmp_path / 'none', 'no such folder')


def test_components_that_are_missing_or_wrong(folder):
  edit(folder / 'scheduler/scheduler_config.json', _class_name='EulerDiscreteScheduler')
  refused(folder, "_class_name = 'EulerDiscreteScheduler'")
  (folder / 'scheduler/scheduler_config.json').unlink()
  refused(folder, 'scheduler_config.json: no such file')
  (folder / 'vae').rename(folder / 'other')
  refused(folder, f'{folder}: lacks vae/, a component of FluxPipeline; copy the whole folder')
  shutil.copytree(folder / 'transformer', folder / 'vae')
  refused(folder, "vae = 'FluxTransformer2DModel': is no autoencoder of a FluxPipeline")
  edit(folder / 'transformer/config.json', num_layers=2)
  refused(folder, 'transformer', 'missing: ')
  shutil.rmtree(folder / 'tokenizer_2')
  refused(folder, 'lacks tokenizer_2/')


@pytest.mark.parametrize('words, message', [
    (['--base=no-one/no-model'], 'the Hugging Face hub is not reachable'),
    (['--base=FOLDER', '--workdir=w'], 'name either a trained run, or a published pipeline by'),
    ([], 'name either a trained run, or a published pipeline by --base'),
    (['--base=FOLDER', '--reference=FILE'], 'the models of this run take none; ask in words alone'),
    (['--base=FOLDER', '--size=30x30'], 'multiples of 4, the pixels along a latent token, as 32x32'),
    (['--base=FOLDER', '--preset=paper'], 'the system flux has none; leave it out'),
    (['--base=FOLDER', '--config.sampling.stpes=3'], 'config.sampling.stpes'),
])
def test_mistakes_at_the_command_line_end_in_one_line(published, tmp_path, capsys, words, message):
  (tmp_path / 'file.png').write_bytes(b'')
  words = [word.replace('FOLDER', str(published)).replace('FILE', str(tmp_path / 'file.png'))
           for word in words]
  assert cli.main(['sample', '--prompt=a cat', f'--out={tmp_path / "out"}', *words]) == 1
  said = capsys.readouterr().err.splitlines()
  assert said[-1].startswith('jaxgen: ') and message in said[-1], said
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('error, message', [
    (errors.GatedRepoError, 'owner/name is gated; accept its licence there and log in'),
    (errors.RepositoryNotFoundError, 'no owner/name either; check the name')])
def test_hub_ids_that_are_gated_or_absent(monkeypatch, error, message):
  def download(*args, **options):
    raise error('no', response=types.SimpleNamespace(request=None, headers={}))

  monkeypatch.setattr(huggingface_hub, 'snapshot_download', download)
  refused('owner/name', message)


def test_of_a_repository_the_components_alone_are_fetched(published, tmp_path, monkeypatch):
  """The hub's own filter, with a folder on this disk in the place of the hub."""
  repository = [str(file.relative_to(published)) for file in published.rglob('*')
                if file.is_file()]
  others = ['flux1-dev.safetensors', 'vae/diffusion_pytorch_model.bin', 'README.md']

  def download(repo, revision, allow_patterns):
    assert (repo, revision) == ('owner/name', 'main')
    for name in filter_repo_objects([*repository, *others], allow_patterns=allow_patterns):
      assert name not in others
      (tmp_path / name).parent.mkdir(exist_ok=True)
      shutil.copyfile(published / name, tmp_path / name)
    return str(tmp_path)

  monkeypatch.setattr(huggingface_hub, 'snapshot_download', download)
  assert locate_pipeline('owner/name@main') == str(tmp_path)
  assert open_pipeline('owner/name@main').config.system == 'flux'


def test_an_export_without_its_pipeline(tiny_base, published, tmp_path, capsys):
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run/config.json').write_text(to_json(tiny_base))
  words = ['convert', 'export', f'--workdir={tmp_path / "run"}', f'--out={tmp_path / "out"}',
           '--pipeline']
  for more, message in (([], 'names no component of a pipeline; name the pipeline by --base'),
                        ([f'--base={published}'], 'a run of the system iomm; name the pipeline'),
                        (['--lora=peft'], 'leave out --lora and --layout')):
    assert cli.main([*words, *more]) == 1
    assert message in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()


def test_inspect_says_what_a_pipeline_is(published, tmp_path, capsys):
  assert cli.main(['convert', 'inspect', str(published), f'--json={tmp_path / "found.json"}']) == 0
  assert capsys.readouterr().out.splitlines()[0] == f'{published}: FluxPipeline, system flux'
  found = json.loads((tmp_path / 'found.json').read_text())
  assert sorted(found) == ['text_encoder', 'text_encoder_2', 'transformer', 'vae']
  assert found['vae']['missing'] == []


def test_levels_of_other_schedulers_are_refused():
  scheduler = dict(_class_name='FlowMatchEulerDiscreteScheduler')
  assert levels(scheduler) == {'sampling.timestep_shift': 1.0, 'sampling.last_level': 0.0}
  assert levels(scheduler | dict(shift=3, shift_terminal=0.02)) == {
      'sampling.timestep_shift': 3.0, 'sampling.last_level': 0.02}
  with pytest.raises(UserError, match="use_karras_sigmas = True: this model supports False only"):
    levels(scheduler | dict(use_karras_sigmas=True))
