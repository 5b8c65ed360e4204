"""The launchers: dry runs that print what would run, the manifest, the shell, real processes."""

import configparser
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import jax
import jsonschema
import pytest
import yaml

from jaxgen.config import load_config
from jaxgen.config import validate
from jaxgen.sharding.processes import Start
from jaxgen.sharding.processes import find_start
from jaxgen.systems.registry import make_system

ROOT = pathlib.Path(__file__).parents[2]
SCRIPTS = [*sorted((ROOT / 'launch').rglob('*.sh')), ROOT / 'launch/slurm.sbatch',
           *sorted((ROOT / 'tools').glob('*.sh')), ROOT / '.ci/run']
FLAGS = sorted((ROOT / 'launch/flags').glob('*.env'))
SCHEMA = json.loads((pathlib.Path(__file__).parent / 'jobset.schema.json').read_text())
# Launchers find python and jaxgen where these tests run.
ENVIRON = os.environ | {'PATH': f'{pathlib.Path(sys.executable).parent}:{os.environ["PATH"]}'}
TRAIN = ['jaxgen', 'train', '--config=c.py', '--workdir=a run']


def launch(script, *words, **environment):
  return subprocess.run([ROOT / 'launch' / script, *words], cwd=ROOT, text=True, check=False,
                        capture_output=True, env=ENVIRON | environment)


def printed(result):
  """The commands of a dry run, each as its words."""
  assert result.returncode == 0, result.stderr
  return [shlex.split(line[2:]) for line in result.stderr.splitlines() if line.startswith('+ ')]


def test_shellcheck_has_nothing_to_say():
  result = subprocess.run(['shellcheck', '--external-sources', *SCRIPTS], cwd=ROOT, text=True,
                          capture_output=True, check=False, env=ENVIRON)
  assert result.returncode == 0, result.stdout


def test_local_prints_the_command_of_each_process():
  commands = printed(launch('local.sh', '-n', '2', '-d', '4', '--dry-run', '--', *TRAIN,
                            PORT='2222', XLA_FLAGS='--xla_a=b'))
  assert len(commands) == 2
  for index, words in enumerate(commands):
    assert words[0] == 'env' and words[-4:] == TRAIN
    environ = dict(word.split('=', 1) for word in words[1:-4])
    assert find_start(environ) == Start('explicit', 'localhost:2222', 2, index)
    assert environ['XLA_FLAGS'] == '--xla_a=b --xla_force_host_platform_device_count=4'


def test_slurm_prints_srun_with_the_flags_it_is_told():
  [flags, srun] = printed(launch('slurm.sbatch', '--dry-run', *TRAIN,
                                 FLAGS='launch/flags/gpu_h800.env'))
  assert flags == ['source', 'launch/flags/gpu_h800.env']
  assert srun == ['srun', '--kill-on-bad-exit=1', '--label', *TRAIN, '--stopped-code=75']


def test_tpu_pod_prints_every_call_of_gcloud():
  commands = printed(launch('tpu_pod.sh', '--name=run', '--zone=us-east5-a', '--type=v5p-256',
                            '--spot', '--dry-run', '--', *TRAIN))
  create, *_, install, train = [words for words in commands if words[0] == 'gcloud']
  assert create == ['gcloud', 'compute', 'tpus', 'queued-resources', 'create', 'run',
                    '--node-id=run', '--zone=us-east5-a', '--accelerator-type=v5p-256',
                    '--runtime-version=v2-alpha-tpuv5', '--spot']
  assert '".[tpu]"' in install[-1] and '--worker=all' in install
  assert 'load_flags launch/flags/tpu_v5p.env' in train[-1]
  assert f'{shlex.quote(TRAIN[0])} train --config=c.py --workdir=a\\ run --coordinator=tpu' in (
      train[-1])


GCLOUD = '''#!/usr/bin/env bash
# Stands in the place of Google's command: notes what it is asked, answers from files.
next() { head -n 1 "$1" && sed -i 1d "$1"; }
case "$*" in
  *describe*) next "$STUB/states" ;;
  *--command=*jaxgen.log*) echo train >> "$STUB/calls" && exit "$(next "$STUB/codes")" ;;
  *queued-resources*) echo "$4" >> "$STUB/calls" ;;
esac
'''


@pytest.mark.parametrize('codes, states, code, calls', [
    # There is no slice yet; it is preempted once, and the next one trains to the end.
    ('75 0', ',ACTIVE,SUSPENDED,,WAITING_FOR_RESOURCES,ACTIVE', 0,
     'create train delete create train'),
    # The slice is fine and the run is not.
    ('1 1', 'ACTIVE,ACTIVE,ACTIVE,ACTIVE,ACTIVE,ACTIVE', 2, 'train train'),
    ('0', ',FAILED', 2, 'create'),
])
def test_tpu_pod_asks_for_another_slice_after_a_preemption(tmp_path, codes, states, code, calls):
  for name, text in (('gcloud', GCLOUD), ('sleep', '#!/bin/sh\n')):
    (tmp_path / name).write_text(text)
    (tmp_path / name).chmod(0o755)
  (tmp_path / 'codes').write_text(codes.replace(' ', '\n') + '\n')
  (tmp_path / 'states').write_text(states.replace(',', '\n') + '\n')
  result = launch('tpu_pod.sh', '--name=run', '--zone=z', '--type=v6e-64', '--', *TRAIN,
                  PATH=f'{tmp_path}:{ENVIRON["PATH"]}', STUB=str(tmp_path), MAX_FAILURES='2')
  assert result.returncode == code, result.stderr
  assert (tmp_path / 'calls').read_text().split() == calls.split()


def test_tpu_pod_leaves_an_existing_slice_alone():
  commands = printed(launch('tpu_pod.sh', '--name=run', '--zone=z', '--type=v6e-64', '--existing',
                            '--dry-run', '--', *TRAIN))
  assert [words[:5] for words in commands if words[0] == 'gcloud'] == [
      ['gcloud', 'compute', 'tpus', 'tpu-vm', verb] for verb in ('scp', 'ssh', 'ssh')]


@pytest.mark.parametrize('kind, extra', [('tpu', 'tpu'), ('gpu', 'cuda')])
def test_images_take_what_is_there(kind, extra):
  text = (ROOT / f'launch/docker/{kind}.Dockerfile').read_text()
  copied = {word for line in text.splitlines() if line.startswith('COPY ')
            for word in line.split()[1:-1]}
  assert {'setup.cfg', 'constraints.txt', 'jaxgen', 'configs', 'launch'} <= copied
  assert all((ROOT / name).exists() for name in copied)
  assert f"--constraint constraints.txt '.[{extra}]'" in text
  extras = configparser.ConfigParser()
  extras.read(ROOT / 'setup.cfg')
  assert extra in extras['options.extras_require']
  # The constraints are of this version of Python.
  [version] = re.findall(r'^FROM python:([\d.]+)-', text, re.MULTILINE)
  assert f'Python {version},' in (ROOT / 'constraints.txt').read_text().splitlines()[0]


@pytest.mark.parametrize('target, replicas, hosts, limit, selector', [
    ('v5p:4x4x8', 1, 32, {'google.com/tpu': 4},
     {'cloud.google.com/gke-tpu-accelerator': 'tpu-v5p-slice',
      'cloud.google.com/gke-tpu-topology': '4x4x8'}),
    ('v6e:16x16*2', 2, 64, {'google.com/tpu': 4},
     {'cloud.google.com/gke-tpu-accelerator': 'tpu-v6e-slice',
      'cloud.google.com/gke-tpu-topology': '16x16'}),
    ('h100:8', 1, 8, {'nvidia.com/gpu': 8}, {'nvidia.com/gpu.product': 'NVIDIA-H100-80GB-HBM3'}),
    ('h800:24', 1, 24, {'nvidia.com/gpu': 8}, {'nvidia.com/gpu.product': 'NVIDIA-H800'}),
])
def test_the_manifest_keeps_to_its_schema(target, replicas, hosts, limit, selector):
  result = launch('gke.sh', '--name=run', '--image=registry/jaxgen:1', f'--on={target}',
                  '--dry-run', '--', *TRAIN)
  assert printed(result) == [['kubectl', 'apply', '-f', '-']]
  manifest = yaml.safe_load(result.stdout)
  jsonschema.validate(manifest, SCHEMA)
  assert '${' not in result.stdout
  [job] = manifest['spec']['replicatedJobs']
  spec = job['template']['spec']
  pod = spec['template']['spec']
  [container] = pod['containers']
  assert (job['replicas'], spec['parallelism'], spec['completions']) == (replicas, hosts, hosts)
  assert container['resources']['limits'] == limit and pod['nodeSelector'] == selector
  [command] = container['args']
  flags = command.split('load_flags ')[1].split()[0]
  assert (ROOT / flags).exists()
  assert command.endswith('exec jaxgen train --config=c.py --workdir=a\\ run --stopped-code=75')


def test_the_schema_refuses_a_misspelt_field():
  result = launch('gke.sh', '--name=run', '--image=i', '--on=h100:2', '--dry-run', '--', *TRAIN)
  manifest = yaml.safe_load(result.stdout.replace('maxRestarts', 'maxRestart'))
  with pytest.raises(jsonschema.ValidationError, match='maxRestart'):
    jsonschema.validate(manifest, SCHEMA)


def test_pods_of_the_gpu_variant_find_each_other():
  result = launch('gke.sh', '--name=run', '--image=i', '--on=h800:3', '--dry-run', '--', *TRAIN)
  [job] = yaml.safe_load(result.stdout)['spec']['replicatedJobs']
  [container] = job['template']['spec']['template']['spec']['containers']
  # What JobSet writes into the annotations of the third pod.
  told = {'jobset-name': 'run', 'replicatedjob-name': 'node', 'job-index': '0'}
  environ = {'JOB_COMPLETION_INDEX': '2'}
  for entry in container['env']:
    path = entry.get('valueFrom', {}).get('fieldRef', {}).get('fieldPath', '')
    environ[entry['name']] = entry.get('value') or told[path.split('/')[1].rstrip("']")]
  assert find_start(environ) == Start('kubernetes', 'run-node-0-0.run:8476', 3, 2)


@pytest.mark.parametrize('script, words, message', [
    ('local.sh', ['-n', 'two', '--', 'x'], '-n two: use a number above 0'),
    ('local.sh', ['--dry-run'], 'what to run is missing'),
    ('slurm.sbatch', ['--dry-run'], 'what to run is missing'),
    ('tpu_pod.sh', ['--name=a', '--zone=b', '--type=v9', '--', 'x'], '--type=v9: use v5p-...'),
    ('gke.sh', ['--name=a', '--image=b', '--on=v5p:3x1x1', '--', 'x'], 'a host has 4 chips'),
    ('gke.sh', ['--name=A!', '--image=b', '--on=h100:1', '--', 'x'], '--name=A!: use a-z'),
])
def test_mistakes_end_in_one_line(script, words, message):
  result = launch(script, *words)
  assert result.returncode == 2
  assert message in result.stderr and result.stderr.count('\n') == 1, result.stderr


@pytest.mark.parametrize('flags', FLAGS, ids=lambda file: file.name)
def test_flags_are_for_the_version_installed(flags):
  code = (f'source launch/common.sh; load_flags {flags.relative_to(ROOT)}; '
          'echo "${LIBTPU_INIT_ARGS:-$XLA_FLAGS}"')
  result = subprocess.run(['bash', '-c', code], cwd=ROOT, text=True, capture_output=True,
                          check=False, env=ENVIRON | {'XLA_FLAGS': ''})
  assert result.returncode == 0, result.stderr
  assert all(word.startswith('--xla_') for word in result.stdout.split()) and result.stdout.strip()
  assert f'JAXGEN_FLAGS_JAX={jax.__version__}\n' in flags.read_text()


JAXGEN = '''#!/usr/bin/env bash
# Stands in the place of jaxgen: notes what it is asked; the first run to train gets a SIGTERM.
code=0
for word in "$@"; do
  [[ $word != --stopped-code=* ]] || code=${word#*=}
  [[ $word != --workdir=* ]] || workdir=${word##*/}
done
echo "$1 ${workdir:-}" >> calls
[[ $1 != train || -e stopped ]] || { touch stopped && exit "$code"; }
'''


def with_jaxgen(folder, script):
  """A repository of the launchers alone, with a script in the place of jaxgen."""
  shutil.copytree(ROOT / 'launch', folder / 'launch')
  (folder / '.venv/bin').mkdir(parents=True)
  (folder / '.venv/bin/jaxgen').write_text(script)
  (folder / '.venv/bin/jaxgen').chmod(0o755)


@pytest.mark.parametrize('script', ['quickstart.sh', 'photos.sh', 'ablations.sh'])
def test_a_stage_that_is_stopped_stops_all_and_goes_on_next_time(script, tmp_path):
  with_jaxgen(tmp_path, JAXGEN)
  first = {'photos.sh': [tmp_path], 'ablations.sh': ['iomm_recipes']}.get(script, [])
  words = [tmp_path / 'launch' / script, *first, 'run']

  def trained():
    subprocess.run(words, env=ENVIRON, check=False, capture_output=True)
    calls = [line.split() for line in (tmp_path / 'calls').read_text().splitlines()]
    return [call[1] for call in calls if call[0] == 'train']

  assert trained() == ['mllm']
  # Its own stage once more, then the next one.
  again = trained()
  assert again[:2] == ['mllm', 'mllm'] and again[2].startswith('pretrain')


# Script -> stages, and the groups that each takes from the one before.
CHAINS = {
    'duetgen.sh': {'stage1': (), 'stage2': ('mllm',)},
    'imontage.sh': {'pretrain': (), 'sft': ('denoiser',), 'hq': ('denoiser',)},
    'query_kontext.sh': {'stage1': (), 'stage2': ('mllm', 'bridge', 'connector'),
                         'stage3': ('mllm', 'bridge', 'connector', 'denoiser'),
                         'stage3_1024': ('mllm', 'bridge', 'connector', 'denoiser')}}


@pytest.mark.parametrize('script', CHAINS)
def test_stages_at_full_size_follow_one_another(script):
  """Each is a config that is there, and starts from the one before, wherever the runs lie."""
  result = subprocess.run([ROOT / 'launch' / script, 'runs/a run', '--config.seed=3'], text=True,
                          env=ENVIRON | {'dry_run': '1'}, check=True, capture_output=True)
  lines = [shlex.split(line) for line in result.stderr.splitlines()]
  before = ''
  for (_, *command), (stage, groups) in zip(lines, CHAINS[script].items(), strict=True):
    folder = f'configs/{script.removesuffix(".sh")}'
    assert (ROOT / folder / f'{stage}.py').exists()
    assert command == [
        'jaxgen', 'train', f'--config={folder}/{stage}.py', f'--workdir=runs/a run/{stage}',
        '--stopped-code=75', *(f'--config.init_from.{group}=runs/a run/{before}'
                               for group in groups), '--config.seed=3']
    before = stage


@pytest.mark.parametrize('system, tokenizer, after', [
    ('imontage', '--kind=photos --path={mine} --size=64', []),
    ('query_kontext', '--kind=subjects --path={mine}', ['evaluate --workdir=run/run --fit=16'])])
def test_photographs_are_trained_on_by_one_command(system, tokenizer, after, tmp_path):
  """The tokenizer once, the training every time; the path of the photographs is the caller's."""
  with_jaxgen(tmp_path, '#!/bin/sh\necho "$@" >> calls\n[ "$1" != data ] || '
              'mkdir -p run/tokenizer\n')
  mine = tmp_path / 'elsewhere/mine'
  mine.mkdir(parents=True)
  for _ in range(2):
    subprocess.run([tmp_path / f'launch/{system}_photos.sh', 'mine', 'run', '--config.seed=5'],
                   env=ENVIRON, check=True, cwd=mine.parent)
  first, second, *rest = (tmp_path / 'calls').read_text().splitlines()
  assert first.startswith(f'data tokenizer {tokenizer.format(mine=mine)}')
  assert second.startswith(f'train --config=configs/{system}/photos.py:{mine} --workdir=run/run')
  assert second.endswith('--config.seed=5')
  assert rest == [*after, second, *after]


@pytest.mark.parametrize('pairs', ['', '16'])
def test_all_captions_are_trained_on_unless_fewer_are_asked_for(pairs, tmp_path):
  with_jaxgen(tmp_path, '#!/bin/sh\necho "$@" >> calls\n')
  subprocess.run([tmp_path / 'launch/photos.sh', tmp_path, 'run'], env=ENVIRON | {'PAIRS': pairs},
                 check=True, cwd=tmp_path)
  trained = [line for line in (tmp_path / 'calls').read_text().splitlines()
             if line.startswith('train')]
  assert ['pairs.limit' in line for line in trained] == [False, False, bool(pairs)]
  assert trained[-1].endswith('--config.data.sources.pairs.limit=16' if pairs else 'run/pretrain')


@pytest.mark.parametrize('script', sorted(file.name for file in ROOT.glob('launch/*photos.sh')))
def test_a_launcher_for_photographs_asks_for_them(script):
  result = launch(script)
  assert result.returncode == 2
  assert result.stderr == f'{script}: name your images: launch/{script} PHOTOS [WORKDIR]\n'


STAGES = sorted(path.stem for path in (ROOT / 'launch/stages').glob('*.sh'))
VARIANTS = [(name, {}) for name in STAGES] + [
    ('query_kontext', {'CHINESE': '1'}), ('iomm_recipes', {'WORLD': 'partial'}),
    *[(name, {'STEPS': '20'}) for name in STAGES if name.endswith('_ablations')]]


@pytest.mark.parametrize('name, environ', VARIANTS, ids=str)
def test_every_training_of_the_stages_has_a_config_that_holds_together(name, environ, tmp_path):
  """With the flags that it is given, of models that fit; what it starts from is trained before."""
  code = f'source launch/common.sh; source launch/stages.sh; root=run; overrides=(); ' \
         f'cd {shlex.quote(str(tmp_path))}; source {ROOT}/launch/stages/{name}.sh'
  result = subprocess.run(['bash', '-euo', 'pipefail', '-c', code], cwd=ROOT, text=True,
                          capture_output=True, check=False,
                          env=ENVIRON | environ | {'dry_run': '1', 'TOWERS': 'towers'})
  known = set()
  for words in printed(result):
    if words[:2] != ['jaxgen', 'train']:
      continue
    flags = [word.removeprefix('--config.') for word in words if word.startswith('--config.')]
    path = next(word for word in words if word.startswith('--config=')).removeprefix('--config=')
    config = load_config(f'{ROOT}/{path}', flags)
    validate(config)
    make_system(config)
    for flag in flags:
      if flag.startswith('init_from.') and not flag.startswith('init_from.changes'):
        assert flag.partition('=')[2] in known, flag
    known.add(next(word for word in words if word.startswith('--workdir=')).partition('=')[2])
  assert known


def start_local(*command, processes=2):
  return subprocess.Popen(
      [ROOT / 'launch/local.sh', '-n', str(processes), '-d', '1', '--', *command], cwd=ROOT,
      text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRON | {'GRACE': '1'})


def test_local_ends_the_others_when_one_fails():
  began = time.monotonic()
  # The others do not listen to SIGTERM, as a process in a collective of a lost host.
  process = start_local('bash', '-c', 'trap "" TERM; [[ $JAXGEN_PROCESS_ID != 1 ]] || exit 7; '
                        'for i in {1..120}; do sleep 1; done')
  out, err = process.communicate(timeout=90)
  assert process.returncode == 7
  assert 'local.sh: process 1 ended with code 7; ending the others' in err
  assert time.monotonic() - began < 60, out


def test_local_passes_sigterm_on_and_labels_what_is_said():
  process = start_local('bash', '-c', 'trap "echo saved; exit 0" TERM; echo ready; '
                        'for i in {1..120}; do sleep 0.5; done')
  ready = {process.stdout.readline(), process.stdout.readline()}
  assert ready == {'[0] ready\n', '[1] ready\n'}
  process.send_signal(signal.SIGTERM)
  out, err = process.communicate(timeout=90)
  assert process.returncode == 0, err
  assert sorted(out.split('\n')[:-1]) == ['[0] saved', '[1] saved']
