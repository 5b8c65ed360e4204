"""Keeps libraries from burying a run's own lines under warnings about hardware that is not there.

All of it are environment variables that the libraries read when they are imported; values that the
user has set stay.
"""

import glob
import importlib.util
import pathlib
from collections.abc import Mapping
from collections.abc import MutableMapping

GOOGLE = '0x1ae0'  # as the vendor of a PCI device


def settle(environ: MutableMapping[str, str]) -> None:
  """Sets the variables; must be called before jax or TensorFlow is imported.

  Args:
    environ: ``os.environ``.
  """
  settle_tensorflow(environ)
  # With libtpu installed (the extra ``test`` does that), jax looks for TPUs on any machine.
  if importlib.util.find_spec('libtpu') and not _may_have_tpus(environ):
    environ.setdefault('JAX_PLATFORMS', ','.join([*_gpu_platforms(), 'cpu']))


def settle_tensorflow(environ: MutableMapping[str, str]) -> None:
  """Sets those of TensorFlow alone, which only reads data sets and writes event files here."""
  environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')


def tpu_chips() -> list[str]:
  """The devices of this machine that may be TPU chips."""
  return glob.glob('/dev/accel[0-9]*') + glob.glob('/dev/vfio/[0-9]*')


def _may_have_tpus(environ: Mapping[str, str]) -> bool:
  """False only where nothing speaks for a TPU: a run must not land on the CPU by mistake."""
  vendors = (pathlib.Path(file).read_text().strip()
             for file in glob.glob('/sys/bus/pci/devices/*/vendor'))
  return bool(tpu_chips()) or any(name.startswith('TPU_') for name in environ) or any(
      vendor == GOOGLE for vendor in vendors)


def _gpu_platforms() -> list[str]:
  """The platforms of jax for the GPUs of this machine, if they are installed."""
  kinds = {'cuda': ('/dev/nvidia[0-9]*', ('jax_cuda12_plugin', 'jax_cuda13_plugin')),
           'rocm': ('/dev/kfd', ('jax_rocm60_plugin', 'jax_rocm7_plugin'))}
  return [name for name, (devices, plugins) in kinds.items()
          if glob.glob(devices) and any(map(importlib.util.find_spec, plugins))]
