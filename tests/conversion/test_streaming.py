"""Copies between memory orders keep every bit, in every dtype of the files."""

import ml_dtypes
import numpy as np
import pytest

from jaxgen.conversion.streaming import copy_reordered

SIDE = 90
ORDERS = {
    'same': lambda x: x,
    'transposed': lambda x: x.T,
    'part': lambda x: x[3:80, 7:].T,
    'heads': lambda x: x.reshape(SIDE, 10, -1).transpose(2, 0, 1),
    'part of heads': lambda x: x.reshape(9, 10, -1).transpose(1, 2, 0)[2:9, 5:77],
    'window': lambda x: x.reshape(SIDE, -1, 3, 3).transpose(2, 3, 1, 0)[1:],
}


@pytest.mark.parametrize('dtype', [
    np.bool_, np.uint8, ml_dtypes.float8_e4m3fn, ml_dtypes.bfloat16, np.float16, np.float32,
    np.float64, np.int64])
@pytest.mark.parametrize('order', ORDERS)
def test_every_byte_is_copied_and_no_other_touched(dtype, order):
  rng, size = np.random.default_rng(0), np.dtype(dtype).itemsize
  raw = rng.integers(0, 2 if dtype == np.bool_ else 256, (SIDE, 360 * size), np.uint8)
  source = ORDERS[order](raw.view(dtype))
  around = np.zeros(tuple(part + 2 for part in source.shape), dtype)
  inner = tuple(slice(1, -1) for _ in source.shape)
  copy_reordered(around[inner], source)
  assert around[inner].tobytes() == source.tobytes()
  around[inner] = 0
  assert not any(around.tobytes())
