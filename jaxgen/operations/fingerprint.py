"""Checks before the first step that all hosts run the same program; otherwise it would hang."""

import functools
import hashlib
import json
import os
import pathlib
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import metadata

from ml_collections import ConfigDict

import jaxgen
from jaxgen.config import to_json
from jaxgen.core import trees
from jaxgen.core.errors import user_error
from jaxgen.sharding.hosts import Hosts

PACKAGES = ('jax', 'jaxlib', 'libtpu', 'jax-cuda12-plugin', 'jax-cuda13-plugin', 'flax', 'optax',
            'orbax-checkpoint', 'grain', 'numpy', 'ml_dtypes', 'tokenizers', 'transformers')
FLAGS = ('XLA_FLAGS', 'LIBTPU_INIT_ARGS', 'JAX_ENABLE_X64', 'JAX_DEFAULT_MATMUL_PRECISION')
ABSENT = 'absent'

Parts = Mapping[str, str]


def describe(config: ConfigDict, workdir: str) -> dict[str, str]:
  """Everything that determines a run, by name: config fields, workdir, code, versions, flags."""
  fields = trees.flatten(json.loads(to_json(config)))
  parts = {f'config.{path.replace("/", ".")}': json.dumps(value) for path, value in fields.items()}
  parts |= {'--workdir': workdir, 'code of jaxgen': code_hash()}
  parts['version of python'] = platform.python_version()
  parts |= {f'version of {name}': _version(name) for name in PACKAGES}
  return parts | {f'environment variable {name}': os.environ.get(name, '') for name in FLAGS}


def check_same(hosts: Hosts, key: str, parts: Parts) -> None:
  """Compares ``parts`` across all hosts.

  Args:
    hosts: the hosts of the run; all of them must call this.
    key: a name that is used once per run.
    parts: this host's parts, from ``describe``.

  Raises:
    UserError: the parts differ (raised on every host with the same message), or some host did
      not arrive in time.
  """
  texts = hosts.gather(key, json.dumps(parts))
  found = odd_ones([json.loads(text) for text in texts])
  if not found:
    return
  name, value, most, odd = found
  raise user_error(hosts.labels(odd), None, f'{name} is {value} there and {most} on the '
                   f'{hosts.count - len(odd)} other{"s" * (hosts.count - len(odd) > 1)}; make '
                   'them the same and start again')


def odd_ones(all_parts: Sequence[Parts]) -> tuple[str, str, str, list[int]] | None:
  """The first part that differs, or None.

  Returns:
    ``(name, deviating value, majority value, deviating processes)``. In a tie the value of the
    lowest process counts as the majority.
  """
  names = dict.fromkeys(name for parts in all_parts for name in parts)
  for name in names:
    values = [parts.get(name, ABSENT) for parts in all_parts]
    if len(set(values)) > 1:
      most = Counter(values).most_common(1)[0][0]
      first = next(value for value in values if value != most)
      return name, first, most, [i for i, value in enumerate(values) if value != most]
  return None


def text_hash(text: str) -> str:
  """A hash of a text, 16 hex digits."""
  return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache
def code_hash(root: pathlib.Path = pathlib.Path(jaxgen.__file__).parent) -> str:
  """A hash of a package's source files, 16 hex digits, independent of where it is installed."""
  digest = hashlib.sha256()
  for file in sorted(root.rglob('*.py')):
    digest.update(str(file.relative_to(root)).encode() + b'\0' + file.read_bytes())
  return digest.hexdigest()[:16]


def _version(package: str) -> str:
  try:
    return metadata.version(package)
  except metadata.PackageNotFoundError:
    return ABSENT
