"""How near two images are pixel by pixel: PSNR and SSIM."""

import numpy as np
from scipy import ndimage

# Of Wang et al. 2004: a Gaussian of this standard deviation, cut at 5 pixels, and two constants.
SIGMA, RADIUS = 1.5, 5
C1, C2 = (0.01 * 255)**2, (0.03 * 255)**2


def psnr(image: np.ndarray, original: np.ndarray) -> float:
  """Peak signal-to-noise ratio of two uint8 images in dB; infinite if they are equal."""
  error = np.mean((image.astype(np.float64) - original) ** 2)
  return float(10 * np.log10(255**2 / error)) if error else float('inf')


def ssim(image: np.ndarray, original: np.ndarray) -> float:
  """Structural similarity of two uint8[H, W, 3] images, 1 if they are equal.

  Windows that leave the image do not count, if there are others; colours are averaged.
  """
  x, y = image.astype(np.float64), original.astype(np.float64)
  mean_x, mean_y = _blurred(x), _blurred(y)
  variance_x = _blurred(x * x) - mean_x**2
  variance_y = _blurred(y * y) - mean_y**2
  covariance = _blurred(x * y) - mean_x * mean_y
  similarity = ((2 * mean_x * mean_y + C1) * (2 * covariance + C2)
                / ((mean_x**2 + mean_y**2 + C1) * (variance_x + variance_y + C2)))  # [H, W, 3]
  if min(image.shape[:2]) > 2 * RADIUS:
    similarity = similarity[RADIUS:-RADIUS, RADIUS:-RADIUS]
  return float(similarity.mean())


def _blurred(image: np.ndarray) -> np.ndarray:
  return ndimage.gaussian_filter(image, SIGMA, radius=RADIUS, axes=(0, 1))
