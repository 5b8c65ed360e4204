"""Eight fake CPU devices, no network and a shared compilation cache, before jax is imported."""

import os
import pathlib

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['HF_HUB_OFFLINE'] = '1'
os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=8'
os.environ.setdefault(
    'JAX_COMPILATION_CACHE_DIR', str(pathlib.Path('~/.cache/jaxgen').expanduser()))
