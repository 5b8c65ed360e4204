"""The doctor finds real faults: in packages, flags, folders, disks, locks, formats and logins."""

import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys

import huggingface_hub
import pytest
from etils import epath
from huggingface_hub import constants

from jaxgen.core.formats import RUN
from jaxgen.operations import doctor
from jaxgen.operations import lock
from tests.operations import local_hub

ROOT = pathlib.Path(__file__).parents[2]
PLACE = '''
import sys
from jaxgen.operations import doctor
for finding in doctor.place(sys.argv[1]):
  print(finding.text, '->', finding.fix)
'''
# Words before a process, a folder, and why it cannot be written. A machine that lets us mount has a
# full disk and one that is read-only; the others stand for them anywhere.
MOUNT = 'mount -t tmpfs -o {} tmpfs "$PLACE" && exec "$0" "$@"'
FULL = [(('prlimit', '--fsize=65536'), '', 'File too large'),
        ((), '/sys/kernel', 'Permission denied')]
if not subprocess.run(['unshare', '-rm', 'true'], check=False, capture_output=True).returncode:
  FULL += [(('unshare', '-rm', 'sh', '-c', MOUNT.format(options)), '', said) for options, said in (
      ('size=64k', 'No space left on device'), ('ro', 'Read-only file system'))]


def run(*words, path=(), root=ROOT, **options):
  """A process in the folder of the code, which ``-m`` makes part of the path."""
  environ = os.environ | {'PYTHONPATH': os.pathsep.join(map(str, (*path, root)))}
  return subprocess.run([sys.executable, *words], text=True, capture_output=True, check=False,
                        env=environ | options, cwd=root)


def distribution(folder, name, version, metadata=''):
  """Makes a package known there, as an installer does."""
  place = folder / f'{name}-{version}.dist-info'
  place.mkdir(parents=True)
  (place / 'METADATA').write_text(metadata or (
      f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n'))
  return folder


def faults(findings):
  return [finding for finding in findings if finding.fix]


def test_a_sound_machine_has_no_fault_and_secrets_stay_secret(tmp_path):
  result = run('-m', 'jaxgen.cli', 'doctor', f'--workdir={tmp_path}', HF_TOKEN='hf_secret',
               JAX_COMPILATION_CACHE_DIR=str(tmp_path / 'programs'))
  assert result.returncode == 0, result.stdout
  lines = result.stdout.splitlines()
  assert lines[0] == 'jaxgen doctor: no faults'
  for words in ('jax 0.', '8 x cpu (cpu)', 'HF_TOKEN=(set)', 'GiB free; a save takes',
                'HF_HUB_OFFLINE is set', 'configs'):
    assert words in result.stdout
  assert 'hf_secret' not in result.stdout + result.stderr and result.stderr == ''


def test_packages_that_are_missing_are_named_though_nothing_else_can_run(tmp_path):
  metadata = importlib.metadata.distribution('jaxgen').read_text('METADATA')
  distribution(tmp_path, 'jaxgen', '0.1.0', metadata)
  result = run('-S', '-m', 'jaxgen.cli', 'doctor', path=[tmp_path])  # no site-packages
  assert result.returncode == 1 and result.stderr == ''
  assert "!! package      jax is missing\n                -> pip install 'jax" in result.stdout
  assert '!! package      etils is missing' in result.stdout
  (tmp_path / 'alone').mkdir()
  (tmp_path / 'alone/jaxgen').symlink_to(ROOT / 'jaxgen')
  result = run('-S', '-m', 'jaxgen.cli', 'doctor', root=tmp_path / 'alone')
  assert result.returncode == 1 and '!! jaxgen       is not installed here' in result.stdout


def test_a_package_of_another_version_is_named(tmp_path, monkeypatch):
  distribution(tmp_path, 'optax', '0.0.9')
  monkeypatch.syspath_prepend(str(tmp_path))
  [fault] = faults(doctor.packages())
  assert fault.text == 'optax 0.0.9 is installed, and jaxgen needs >=0.2.6'
  assert fault.fix == "pip install 'optax>=0.2.6'"


@pytest.mark.parametrize('name, value, said, fix', [
    ('XLA_FLAGS', '--xla_no_such_flag=1', 'xla_no_such_flag', 'remove that flag from XLA_FLAGS'),
    ('JAX_PLATFORMS', 'rocm', 'rocm', 'unset JAX_PLATFORMS, or install')])
def test_devices_that_do_not_start_are_named(monkeypatch, name, value, said, fix):
  monkeypatch.setenv(name, value)
  found = doctor.devices()
  assert said in found.text and found.fix.startswith(fix)


def test_variables_that_do_harm_are_named(monkeypatch):
  monkeypatch.setenv('JAX_ENABLE_X64', '1')
  monkeypatch.setenv('JAXGEN_FLAGS_JAX', '0.0.1')
  monkeypatch.setenv('JAX_DISABLE_JIT', '0')
  assert {finding.text for finding in faults(doctor.variables())} == {
      'JAX_ENABLE_X64=1', 'JAXGEN_FLAGS_JAX=0.0.1'}


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
  (tmp_path / 'file').write_text('')
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path / 'file'))
  [fault] = faults(doctor.compile_cache())
  assert 'cannot be written (Not a directory)' in fault.text


@pytest.mark.parametrize('first, folder, said', FULL, ids=[row[2] for row in FULL])
def test_a_full_disk_and_one_that_is_read_only_are_named(tmp_path, first, folder, said):
  folder = folder or str(tmp_path)
  result = subprocess.run([*first, sys.executable, '-c', PLACE, folder], text=True,
                          capture_output=True, check=False,
                          env=os.environ | {'PYTHONPATH': str(ROOT), 'PLACE': folder})
  assert f'cannot be written ({said}) -> free space' in result.stdout, result.stderr


def test_a_save_that_will_not_fit_a_run_of_a_newer_format_and_a_holder_are_named(
    tmp_path, monkeypatch):
  (tmp_path / 'checkpoints/7').mkdir(parents=True)
  with open(tmp_path / 'checkpoints/7/array', 'wb') as file:
    os.truncate(file.fileno(), 1 << 43)  # a hole
  (tmp_path / 'config.json').write_text(json.dumps({'format': RUN + 1}))
  with lock.held(epath.Path(tmp_path)):
    workdir, holder, config = doctor.place(str(tmp_path))
  assert 'newest step 7' in workdir.text and 'free are less than 8192.00 GiB' in workdir.text
  assert holder.text.startswith(f'training by process {os.getpid()} on ') and not holder.fix
  assert f'written by a newer jaxgen; this one reads format {RUN}' in config.text
  assert config.fix == '`pip install --upgrade jaxgen`'


def test_the_hub_is_asked_who_we_are(tmp_path, monkeypatch):
  monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
  monkeypatch.setenv('HF_TOKEN', local_hub.TOKEN)
  with local_hub.serving() as hub:
    monkeypatch.setenv('HF_ENDPOINT', hub.url)
    assert 'is reached and knows the token' in doctor.hub().text
    monkeypatch.setenv('HF_TOKEN', 'hf_old')
    assert doctor.hub().text.endswith('refuses the token (401)') and 'hf auth' in doctor.hub().fix
    monkeypatch.setattr(huggingface_hub, 'get_token', lambda: None)
    assert 'is reached, nobody is logged in' in doctor.hub().text
  found = doctor.hub()  # it has gone
  assert 'is out of reach ([Errno 111] Connection refused)' in found.text and not found.fix
