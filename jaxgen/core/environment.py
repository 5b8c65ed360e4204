"""Environment variables that say how jaxgen and the libraries below it run."""

import os
import re
from collections.abc import Mapping

_OURS = re.compile(
    r'(JAXGEN|JAX|XLA|LIBTPU|TPU|CUDA|NVIDIA|ROCR|HIP|NCCL|OMP|MKL|TF_CPP|TF_ENABLE|TF_FORCE|HF|'
    r'WANDB|SLURM|OPENAI)_|GLIBC_TUNABLES|LD_PRELOAD|LD_LIBRARY_PATH|PYTHONPATH')
_SECRET = re.compile(r'TOKEN$|KEY$|SECRET|PASSWORD|CREDENTIAL')


def compilation_cache(environ: Mapping[str, str]) -> str:
  """Folder of JAX's persistent compilation cache."""
  return environ.get('JAX_COMPILATION_CACHE_DIR') or os.path.expanduser('~/.cache/jaxgen')


def that_matter(environ: Mapping[str, str]) -> dict[str, str]:
  """Those that change a run, sorted; of secrets only that they are set."""
  return {name: '(set)' if _SECRET.search(name) else environ[name]
          for name in sorted(environ) if _OURS.match(name)}
