"""What a run leaves goes to the hub: a real client of huggingface_hub and a real server."""

import pytest

from jaxgen.core.errors import UserError
from jaxgen.finetuning import results
from tests import hub as hubs


@pytest.fixture
def hub():
  with hubs.serving() as hub:
    yield hub


@pytest.fixture
def workdir(tmp_path):
  """A run with something to upload: a card, a large file, a folder."""
  export = tmp_path / 'export'
  (export / 'peft').mkdir(parents=True)
  (export / 'README.md').write_text('---\nlibrary_name: diffusers\n---\n\n# mine\n')
  (export / 'comfyui.safetensors').write_bytes(bytes(range(256)) * 1000)
  (export / 'peft/adapter_config.json').write_text('{"r": 4}')
  return tmp_path


def test_every_file_arrives(hub, workdir):
  with hubs.online(hub):
    client = results.hub('owner/mine')
    assert hub.files == {'owner/mine': {}}
    said = results.push(client, 'owner/mine', str(workdir), 10)
  assert said.startswith(f'{hub.endpoint}/owner/mine')
  export = workdir / 'export'
  assert hub.files['owner/mine'] == {
      str(file.relative_to(export)): file.read_bytes()
      for file in export.rglob('*') if file.is_file()}


def test_nobody_logged_in_and_no_right_to_write(hub):
  with hubs.online(hub, 'hf_unknown'), pytest.raises(
      UserError, match="push-to = 'owner/mine': the hub refuses it .*log in with `hf auth login`"):
    results.hub('owner/mine')
  with hubs.online(hub), pytest.raises(
      UserError, match="push-to = 'others/mine': the hub refuses it .403 Forbidden.*permissions"):
    results.hub('others/mine')
  assert not hub.files


def test_a_server_that_is_not_there():
  with hubs.serving() as gone:
    pass
  with hubs.online(gone), pytest.raises(UserError, match='the hub refuses it .*; log in'):
    results.hub('owner/mine')


def test_an_upload_that_fails_says_what_is_left(hub, workdir):
  with hubs.online(hub):
    client = results.hub('owner/mine')
    hub.refuses = '/commit/'
    with pytest.raises(UserError, match='the upload failed .403 Forbidden.*run the command again, or '
                       f'upload {workdir}/export yourself'):
      results.push(client, 'owner/mine', str(workdir), 10)
    hub.refuses = ''
    results.push(client, 'owner/mine', str(workdir), 10)
  assert len(hub.files['owner/mine']) == 3
