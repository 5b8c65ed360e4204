"""What is installed, which devices there are, and what is broken, with a fix for each fault.

Only the standard library is imported at first, so that this works where packages are missing. The
devices are asked in a process of their own: a wrong flag of XLA aborts it, and a device may hang.
"""

import dataclasses
import glob
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from jaxgen.core import environment
from jaxgen.core import quiet

SHOWN = ('jaxgen', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy',
         'transformers', 'tokenizers', 'huggingface_hub', 'tensorflow-cpu', 'pillow', 'libtpu',
         'jax-cuda13-plugin', 'jax-cuda12-plugin', 'qwix', 'torch', 'diffusers', 'wandb')
PATIENCE = 120  # seconds until a device counts as hung
REACHED = 5  # seconds until the hub counts as out of reach
LEAST = 64 << 20  # free bytes that any save needs
GIB = 2**30
_PROBE = '''
import json, jax
devices = jax.local_devices()
jax.block_until_ready(jax.numpy.ones(8) + 1)
limits = [(device.memory_stats() or {}).get('bytes_limit', 0) for device in devices]
print(json.dumps([jax.default_backend(), devices[0].device_kind, len(devices), min(limits)]))
'''


@dataclasses.dataclass(frozen=True)
class Finding:
  """One thing that was looked at.

  Attributes:
    subject: what it is.
    text: how it is.
    fix: what mends it; '' where nothing is broken.
  """

  subject: str
  text: str
  fix: str = ''


def report(workdir: str = '') -> tuple[str, int]:
  """The findings as one block of text to paste into a bug report, and the number of faults.

  Args:
    workdir: of a run, there already or to be made; '' = none.
  """
  findings = list(examine(workdir))
  faults = sum(bool(finding.fix) for finding in findings)
  lines = [f'jaxgen doctor: {faults or "no"} fault{"" if faults == 1 else "s"}']
  for finding in findings:
    lines.append(f'{"!!" if finding.fix else "  "} {finding.subject:<12} {finding.text}')
    if finding.fix:
      lines.append(f'{"":<15} -> {finding.fix}')
  home = os.path.expanduser('~')
  return '\n'.join(lines).replace(f'{home}/', '~/'), faults


def examine(workdir: str = '') -> Iterator[Finding]:
  """All findings; see ``report``."""
  yield Finding('system', f'{platform.platform()}, Python {platform.python_version()}, '
                f'{len(os.sched_getaffinity(0))} CPU cores, {_memory()}')
  yield from packages()
  if _version('jax') and _version('jaxlib'):
    yield devices()
  yield from compile_cache()
  yield from variables()
  if workdir and _version('etils'):
    yield from place(workdir)
  if _version('huggingface_hub'):
    yield hub()


def packages() -> Iterator[Finding]:
  """Versions, and what is missing or of a version that jaxgen does not run with."""
  found = {name: _version(name) for name in SHOWN}
  yield Finding('packages', ', '.join(f'{name} {version}' for name, version in found.items()
                                      if version) or 'none')
  try:
    wanted = importlib.metadata.requires('jaxgen') or []
  except importlib.metadata.PackageNotFoundError:
    yield Finding('jaxgen', 'is not installed here', '`pip install jaxgen`, or `pip install -e .` '
                  'in its repository')
    return
  extras: dict[str, bool] = {}
  for line in wanted:
    text, _, marker = (part.strip() for part in line.partition(';'))
    name = re.match(r'[\w.-]+', text)[0]
    if extra := re.search(r'extra == .(.+?)[\'"]', marker):
      extras[extra[1]] = extras.get(extra[1], True) and _is_whole(text)
    elif fault := _fault(name, text):
      yield Finding('package', fault, f"pip install '{text}'")
  yield Finding('extras', 'complete: ' + (', '.join(
      name for name, whole in sorted(extras.items()) if whole) or 'none'))
  if spec := importlib.util.find_spec('configs'):
    yield Finding('configs', os.path.dirname(spec.origin or ''))


def devices() -> Finding:
  """What JAX computes on, and whether that is what the machine has."""
  try:
    result = subprocess.run([sys.executable, '-c', _PROBE], text=True, capture_output=True,
                            timeout=PATIENCE, check=False)
  except subprocess.TimeoutExpired:
    return Finding('devices', f'do not answer within {PATIENCE} s', 'end what else holds them '
                   '(`fuser -v /dev/nvidia* /dev/accel* /dev/vfio/*`); a TPU slice of several '
                   'hosts answers only where all of them ask at once')
  said = [line for line in result.stderr.splitlines() if line.strip()]
  if result.returncode:
    return Finding('devices', f'JAX does not start: {_reason(said)}', _device_fix(result.stderr))
  backend, kind, count, limit = json.loads(result.stdout.splitlines()[-1])
  text = f'{count} x {kind} ({backend})' + (f', {limit / GIB:.1f} GiB each' if limit else '')
  for name, there, extra in (('GPU', glob.glob('/dev/nvidia[0-9]*'), 'cuda'),
                             ('TPU', quiet.tpu_chips(), 'tpu')):
    if backend == 'cpu' and there:
      return Finding('devices', f'{text}, though there is a {name} ({there[0]})'
                     + (f': {_reason(said)}' if said else ''),
                     f"pip install 'jaxgen[{extra}]', and unset JAX_PLATFORMS")
  return Finding('devices', text)


def compile_cache() -> Iterator[Finding]:
  """Where programs are kept, and whether they can be."""
  folder = environment.compilation_cache(os.environ)
  if '://' in folder:
    yield Finding('programs', f'are kept in {folder}')
    return
  count, size = _size(folder)
  fault = _write_fault(folder, 1 << 20)
  yield Finding('programs', f'{count} files, {size / GIB:.2f} GiB in {folder}'
                + (f', which cannot be written ({fault})' if fault else ''),
                fault and 'set JAX_COMPILATION_CACHE_DIR to a folder with space that you may write')


def variables() -> Iterator[Finding]:
  """Environment variables that matter, and those that do harm."""
  for name, value in environment.that_matter(os.environ).items():
    fix = ''
    if name in ('JAX_DISABLE_JIT', 'JAX_ENABLE_X64') and value.lower() not in ('', '0', 'false'):
      fix = 'unset it: ' + ('programs run operation by operation' if name == 'JAX_DISABLE_JIT'
                            else 'jaxgen computes in 32 bits and less')
    elif name == 'JAXGEN_FLAGS_JAX' and value != _version('jax'):
      fix = f'these compiler flags are for jax {value}; compile a plan with them (jaxgen plan)'
    yield Finding('variable', f'{name}={value}', fix)


def place(workdir: str) -> Iterator[Finding]:
  """Rights, space and holders of a workdir, and whether its config can be read."""
  from jaxgen.core.errors import UserError
  from jaxgen.core.formats import check_run
  from jaxgen.operations import lock
  from etils import epath
  path = epath.Path(workdir)
  if '://' in workdir:
    yield Finding('workdir', f'{workdir} is in a bucket', _bucket_fault(path))
    return
  kept = sorted((int(file.name) for file in path.glob('checkpoints/*') if file.name.isdigit()))
  need = max(LEAST, _size(f'{workdir}/checkpoints/{kept[-1]}')[1] if kept else 0)
  fault = _write_fault(workdir, need)
  free = shutil.disk_usage(_existing(workdir)).free
  yield Finding('workdir', f'{workdir}: {"there" if path.exists() else "not there yet"}, '
                f'{free / GIB:.2f} GiB free; a save takes {need / GIB:.2f} GiB'
                + (f'; newest step {kept[-1]}' if kept else '')
                + (f'; cannot be written ({fault})' if fault else ''),
                fault and 'free space, mend the rights (`ls -ld`, `df -h`, `quota`), or take '
                'another place')
  for kind in (lock.TRAINING, lock.EVALUATION):
    if who := lock.holder(path, kind):
      yield Finding('lock', f'{kind} by {who}')
  try:
    check_run(path)
  except UserError as error:
    *where, fix = str(error).split('; ')
    yield Finding('config', '; '.join(where), fix)


def hub() -> Finding:
  """Whether the Hugging Face hub can be reached, and as whom."""
  import huggingface_hub
  from huggingface_hub import constants
  kept = f'its cache is {constants.HF_HUB_CACHE}'
  if constants.HF_HUB_OFFLINE:
    return Finding('hub', f'HF_HUB_OFFLINE is set; {kept}')
  endpoint = os.environ.get('HF_ENDPOINT') or constants.ENDPOINT
  status = _asked(f'{endpoint}/api/whoami-v2', huggingface_hub.get_token())
  if isinstance(status, str):
    return Finding('hub', f'{endpoint} is out of reach ({status}): models must be folders here or '
                   f'in its cache; {kept}')
  if not huggingface_hub.get_token():
    return Finding('hub', f'{endpoint} is reached, nobody is logged in; {kept}')
  if status in (401, 403):
    return Finding('hub', f'{endpoint} refuses the token ({status})', 'log in again with '
                   '`hf auth login`, or unset HF_TOKEN')
  return Finding('hub', f'{endpoint} is reached and knows the token; {kept}')


def _asked(url: str, token: str | None) -> int | str:
  """The status of a request, or why there was no answer."""
  import urllib.error
  import urllib.request
  headers = {'Authorization': f'Bearer {token}'} if token else {}
  try:
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=REACHED) as reply:
      return reply.status
  except urllib.error.HTTPError as error:
    return error.code
  except (OSError, ValueError) as error:
    return ' '.join(str(getattr(error, 'reason', error)).split())


def _version(name: str) -> str:
  try:
    return importlib.metadata.version(name)
  except importlib.metadata.PackageNotFoundError:
    return ''


def _is_whole(text: str) -> bool:
  """Whether a requirement is installed, with those of its own extras, as ``jax[cuda13]>=0.10``."""
  name, extra = re.match(r'([\w.-]+)(?:\[([\w-]+)\])?', text).groups()
  return bool(_version(name)) and (not extra or all(
      _version(re.match(r'[\w.-]+', line)[0]) for line in importlib.metadata.requires(name) or []
      if re.search(rf'extra == .{extra}[\'"]', line)))


def _fault(name: str, text: str) -> str:
  """What is wrong with an installed package; '' for nothing."""
  version = _version(name)
  if not version:
    return f'{name} is missing'
  try:
    from packaging.requirements import Requirement
  except ImportError:
    return ''
  needed = Requirement(text).specifier
  return '' if needed.contains(version, prereleases=True) else (
      f'{name} {version} is installed, and jaxgen needs {needed}')


def _memory() -> str:
  """Memory of the machine, or of the container that this is in."""
  lines = pathlib.Path('/proc/meminfo').read_text().splitlines()
  found = {line.partition(':')[0]: int(line.split()[1]) * 1024 for line in lines}
  total, free = found['MemTotal'], found['MemAvailable']
  limit = pathlib.Path('/sys/fs/cgroup/memory.max')
  if limit.exists() and (text := limit.read_text().strip()).isdigit():
    total, free = min(total, int(text)), min(free, int(text))
  return f'{free / GIB:.1f} of {total / GIB:.1f} GiB memory free'


def _reason(lines: list[str]) -> str:
  """The line of a failed process that says most: the last one that is not of a traceback."""
  told = [line.strip() for line in lines if re.search(r'rror|nknown|usy|in use|failed', line)]
  return (told or lines or ['no word of why'])[-1].strip()[:300]


def _device_fix(text: str) -> str:
  if 'nknown flag' in text or 'nknown command line flag' in text:
    return 'remove that flag from XLA_FLAGS or LIBTPU_INIT_ARGS; flags change with jaxlib'
  if re.search(r'in use|usy|lockfile', text):
    return 'end the process that holds the devices (`fuser -v /dev/accel* /dev/vfio/*`)'
  if 'Unable to initialize backend' in text:
    return 'unset JAX_PLATFORMS, or install what it names (jaxgen[cuda], jaxgen[tpu])'
  return 'install the versions that jaxgen was tested with: pip install -c constraints.txt jaxgen'


def _size(folder: str) -> tuple[int, int]:
  """Number of files below a folder, and their bytes."""
  sizes = [file.stat().st_size for file in pathlib.Path(folder).rglob('*') if file.is_file()]
  return len(sizes), sum(sizes)


def _existing(path: str) -> str:
  """The path, or the nearest folder above it that exists."""
  path = os.path.abspath(os.path.expanduser(path))
  while not os.path.lexists(path):
    path = os.path.dirname(path)
  return path


def _write_fault(folder: str, size: int) -> str:
  """Why so many bytes cannot be written in a folder, which may be yet to come; '' if they can."""
  try:
    with tempfile.TemporaryFile(dir=_existing(folder)) as file:
      os.posix_fallocate(file.fileno(), 0, min(size, LEAST))
    free = shutil.disk_usage(_existing(folder)).free
  except OSError as error:
    return error.strerror or str(error)
  return '' if free >= size else f'{free / GIB:.2f} GiB free are less than {size / GIB:.2f} GiB'


def _bucket_fault(path) -> str:
  """The fix where nothing can be written into a bucket; '' where it can."""
  file = path / '.jaxgen_doctor'
  try:
    file.write_text('')
    file.unlink()
  except Exception as error:  # each cloud has errors of its own
    return f'get the right to write there ({" ".join(str(error).split())[:160]})'
  return ''
