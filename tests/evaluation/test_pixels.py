"""PSNR and SSIM against numbers by hand and the definition, window by window."""

import numpy as np
import pytest

from jaxgen.evaluation.pixels import C1
from jaxgen.evaluation.pixels import C2
from jaxgen.evaluation.pixels import psnr
from jaxgen.evaluation.pixels import ssim


def test_psnr_by_hand():
  black, grey = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 51, np.uint8)
  assert psnr(black, grey) == pytest.approx(10 * np.log10(25.0))
  assert psnr(grey, grey) == np.inf


def by_windows(image, original):
  """Wang et al. 2004, equation 13, at every whole window of 11 x 11 pixels."""
  places = np.arange(-5, 6)
  line = np.exp(-places**2 / (2 * 1.5**2))
  weights = (line / line.sum())[:, None] * (line / line.sum())
  values = []
  for row in range(5, image.shape[0] - 5):
    for column in range(5, image.shape[1] - 5):
      for color in range(3):
        x, y = (array[row - 5:row + 6, column - 5:column + 6, color].astype(float)
                for array in (image, original))
        mean_x, mean_y = (weights * x).sum(), (weights * y).sum()
        var_x, var_y = (weights * (x - mean_x)**2).sum(), (weights * (y - mean_y)**2).sum()
        both = (weights * (x - mean_x) * (y - mean_y)).sum()
        values.append((2 * mean_x * mean_y + C1) * (2 * both + C2) / (
            (mean_x**2 + mean_y**2 + C1) * (var_x + var_y + C2)))
  return np.mean(values)


def test_ssim_is_the_mean_over_windows():
  rng = np.random.default_rng(0)
  original = rng.integers(0, 256, (16, 18, 3), np.uint8)
  noisy = np.clip(original + rng.normal(0, 40, original.shape), 0, 255).astype(np.uint8)
  assert ssim(noisy, original) == pytest.approx(by_windows(noisy, original), abs=1e-9)
  assert 0.3 < ssim(noisy, original) < 0.99 and ssim(original, original) == 1
