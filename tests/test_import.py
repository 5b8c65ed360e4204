"""What importing jaxgen promises: right sums on CPUs, and flags of one's own stay."""

import os
import subprocess
import sys

# The norm of the last of 32,769 vectors; jaxlib 0.10.2 gives 1065369600 by itself.
PROGRAM = '''
import {modules}
import jax.numpy as jnp
index = jnp.arange(32769, dtype=jnp.float32)
vectors = jnp.stack([index, 0 * index, 0 * index], axis=1)
norms = jax.jit(jax.vmap(lambda vector: jnp.sum((jnp.eye(3) @ vector)**2)))
print(float(norms(vectors)[-1]), float(index[-1])**2)
'''


def sums(modules, **environ):
  found = subprocess.run([sys.executable, '-c', PROGRAM.format(modules=modules)], text=True,
                         env={**os.environ, 'XLA_FLAGS': '', **environ}, capture_output=True,
                         check=True)
  return [float(word) for word in found.stdout.split()]


def test_sums_after_matrix_products_are_right():
  ours, exact = sums('jax, jaxgen')  # jax first: the backend has not started yet
  assert ours == exact


def test_a_flag_of_ones_own_stays():
  flag = '--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT'
  ours, exact = sums('jaxgen, jax', XLA_FLAGS=flag)
  assert ours != exact, 'this jaxlib is right by itself: jaxgen/__init__.py may leave it alone'
