"""Hardware by name: chip specifications, and device descriptions for absent topologies."""

import dataclasses
import importlib.util
import math
import os
import re
from typing import Any

from jax.experimental import topologies

from jaxgen.core.errors import user_error
from jaxgen.core.hardware import PEAKS

GIB = 2**30
FORMS = ('tpu:v5p:4x4x8 (chips along the torus), tpu:v5p:4x4x8*2 (slices) or gpu:h100:8x8 '
         '(nodes x GPUs)')
# Compiling for a TPU must not query a metadata server or lock libtpu for this process alone.
TPU_ENVIRONMENT = {
    'TPU_SKIP_MDS_QUERY': '1', 'TPU_ACCELERATOR_TYPE': 'v5p-8', 'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_WORKER_ID': '0', 'ALLOW_MULTIPLE_LIBTPU_LOAD': '1'}
GPU_ENVIRONMENT = {'JAX_SKIP_CUDA_CONSTRAINTS_CHECK': '1'}
# XLA's target config of a Hopper GPU; the values that differ are filled in from ``Chip``.
HOPPER = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth} l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: {memory} shared_memory_per_block_optin: 232448
  cuda_compute_capability {{ major: 9 minor: 0 }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 patch: 0 }}
runtime_version {{ major: 12 minor: 8 patch: 0 }}
device_description_str: "{description}"
"""


@dataclasses.dataclass(frozen=True)
class Chip:
  """One accelerator, from its data sheet.

  Attributes:
    description: its full name.
    hbm_bytes: device memory available to a program.
    flops: dense bf16 FLOP/s.
    hbm_bandwidth: bytes/s to and from device memory.
    link_bandwidth: bytes/s that a device sends over ICI, in both directions along one dimension of
      the torus, or over NVLink.
    network_bandwidth: bytes/s that a device sends to other slices (DCN) or nodes (InfiniBand).
    cube: the torus wraps around dimensions that are multiples of this; 0 if it never does.
  """

  description: str
  hbm_bytes: int
  flops: float
  hbm_bandwidth: float
  link_bandwidth: float
  network_bandwidth: float
  cube: int = 0


HOPPER_BYTES = 84978434048  # memory of an 80 GB Hopper GPU
POOL = 0.92  # XLA_PYTHON_CLIENT_MEM_FRACTION of launch/flags; CUDA and NCCL need the rest
# Google's and NVIDIA's data sheets. Assumes one 400 Gbit/s adapter per GPU.
CHIPS = {
    'tpu:v5p': Chip('TPU v5p', 95 * GIB, PEAKS['v5p'], 2765e9, 200e9, 6.25e9, cube=4),
    'tpu:v6e': Chip('TPU v6e', 32 * GIB, PEAKS['v6e'], 1640e9, 200e9, 12.5e9, cube=16),
    'gpu:h100': Chip('NVIDIA H100 80GB HBM3', int(POOL * HOPPER_BYTES), PEAKS['H100'], 3352e9,
                     450e9, 50e9),
    'gpu:h800': Chip('NVIDIA H800', int(POOL * HOPPER_BYTES), PEAKS['H800'], 3352e9, 200e9, 50e9),
}


@dataclasses.dataclass(frozen=True)
class Topology:
  """The hardware that ``--topology`` names.

  Attributes:
    name: the name as given.
    chip: specification of each device.
    shape: chips along each torus dimension of a slice, or (nodes, GPUs per node).
    slices: number of TPU slices; 1 for GPUs.
    is_tpu: True for TPUs, False for GPUs.
  """

  name: str
  chip: Chip
  shape: tuple[int, ...]
  slices: int
  is_tpu: bool

  @property
  def size(self) -> int:
    """Number of devices."""
    return math.prod(self.shape) * self.slices

  @property
  def domain(self) -> int:
    """Devices that reach each other without the network: a slice or a node."""
    return math.prod(self.shape) if self.is_tpu else self.shape[1]


def parse(name: str) -> Topology:
  """Parses the name of a topology.

  Raises:
    UserError: unknown hardware, or a shape that is not available for it.
  """
  match = re.fullmatch(r'((?:tpu|gpu):\w+):(\d+(?:x\d+)*)(?:\*(\d+))?', name)
  if not match:
    raise user_error('--topology', name, f'write it as {FORMS}')
  kind, shape, slices = match[1], tuple(int(size) for size in match[2].split('x')), match[3]
  if kind not in CHIPS:
    raise user_error('--topology', name, f'knows {", ".join(CHIPS)}')
  is_tpu = kind.startswith('tpu')
  dimensions = {'tpu:v5p': 3}.get(kind, 2)
  if len(shape) != dimensions or min(shape) < 1 or (slices and not is_tpu) or slices == '0':
    raise user_error('--topology', name, f'{kind} needs {dimensions} sizes of 1 or more'
                     f'{"" if is_tpu else ", nodes x GPUs"}; forms: {FORMS}')
  return Topology(name, CHIPS[kind], shape, int(slices or 1), is_tpu)


def devices_of(topology: Topology) -> list[Any]:
  """Device descriptions that programs can be compiled for, but not run on.

  Raises:
    UserError: the compiler for this hardware is not installed, or rejects the shape.
  """
  _require(topology)
  try:
    described = _tpu(topology) if topology.is_tpu else _gpu(topology)
  except Exception as error:  # the compilers raise errors of many classes
    reason = ' '.join(str(error).split())[:200]
    raise user_error('--topology', topology.name, f'the compiler refuses it: {reason}') from error
  return list(described.devices)


def _require(topology: Topology) -> None:
  """Checks that the compiler is installed; it is an optional extra because of its size."""
  module, extra = ('libtpu', 'plan-tpu') if topology.is_tpu else ('jax_plugins', 'plan-gpu')
  found = importlib.util.find_spec(module) is not None
  if found and not topology.is_tpu:
    found = any(importlib.util.find_spec(f'jax_plugins.xla_cuda{version}') for version in (12, 13))
  if not found:
    raise user_error('--topology', topology.name, 'its compiler is not installed; '
                     f"pip install --constraint constraints.txt --editable '.[{extra}]'"
                     f'{"" if topology.is_tpu else " in an environment of its own"}')


def _tpu(topology: Topology) -> topologies.TopologyDescription:
  for name, value in TPU_ENVIRONMENT.items():
    os.environ.setdefault(name, value)
  # Without ``wrap`` a slice of whole cubes would be compiled as a mesh without wrap-around links.
  wrap = _wrap(topology)
  kind, sizes = topology.name.removeprefix('tpu:').partition('*')[0].split(':')
  options = dict(num_slices=topology.slices) if topology.slices > 1 else {}
  return topologies.get_topology_desc(f'{kind}:{sizes}', 'tpu', wrap=wrap, **options)


def _wrap(topology: Topology) -> tuple[bool, ...]:
  """Dimensions with wrap-around links: all of them for whole v5p cubes, full-length ones on v6e."""
  cube = topology.chip.cube
  closed = [size % cube == 0 for size in topology.shape]
  if len(topology.shape) == 3:
    return (all(closed),) * 3
  return *closed, False  # the compiler expects three dimensions for a v6e too


def _gpu(topology: Topology) -> topologies.TopologyDescription:
  for name, value in GPU_ENVIRONMENT.items():
    os.environ.setdefault(name, value)
  nodes, gpus = topology.shape
  chip = topology.chip
  config = HOPPER.format(bandwidth=int(chip.hbm_bandwidth), memory=HOPPER_BYTES,
                         description=chip.description)
  return topologies.get_topology_desc(
      '', 'cuda', topology=f'1x{nodes}x{gpus}', target_config=config)
