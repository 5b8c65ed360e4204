"""jaxgen: train, run and ship unified multimodal image generators with JAX."""

import contextlib
import os
from importlib import metadata

__version__ = '0.1.0'

# On CPUs jaxlib 0.10.2 hands a matrix product and the sum after it to its kernel library as one,
# and some of these sums are silently wrong (github.com/jax-ml/jax/issues/39103): products go there
# alone. The backend reads the flag when it starts, whichever was imported first.
_FLAG, _FLAGS = '--xla_cpu_experimental_ynn_fusion_type', os.environ.get('XLA_FLAGS', '')
with contextlib.suppress(metadata.PackageNotFoundError):  # `jaxgen doctor` says so
  if metadata.version('jaxlib') == '0.10.2' and _FLAG not in _FLAGS:
    os.environ['XLA_FLAGS'] = f'{_FLAGS} {_FLAG}=LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT'.lstrip()
