"""Videos of known pans, zooms and cuts over pictures."""

import dataclasses
import fractions
import pathlib
from collections.abc import Sequence

import av
import numpy as np
from PIL import Image
from PIL import ImageFilter

HEIGHT, WIDTH = 96, 128
RATE = 24


@dataclasses.dataclass(frozen=True)
class Scene:
  """Seconds of one picture: a pan of ``pan`` pixels and a zoom of ``zoom`` per second."""

  picture: Image.Image
  seconds: float
  pan: float = 0.0
  zoom: float = 0.0

  def frame(self, time: float) -> np.ndarray:
    """uint8[H, W, 3] at a time of the scene."""
    scale = 1 / (1 + self.zoom * time)
    left, top = 4 + self.pan * time, 4
    wide, high = WIDTH * scale, HEIGHT * scale
    middle = left + WIDTH / 2, top + HEIGHT / 2
    box = (middle[0] - wide / 2, middle[1] - high / 2, middle[0] + wide / 2, middle[1] + high / 2)
    return np.asarray(self.picture.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, box))


def textures(count: int) -> list[Image.Image]:
  """Smooth random pictures of different brightness and colour, wide enough to pan over."""
  made = []
  for seed in range(count):
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 255, (HEIGHT + 40, 8 * WIDTH, 3), np.uint8)
    picture = Image.fromarray(noise).filter(ImageFilter.GaussianBlur(3))
    values = np.asarray(picture, np.float32)
    values = (values - values.mean()) / values.std() * 40 + rng.integers(70, 180, 3)
    made.append(Image.fromarray(values.clip(0, 255).astype(np.uint8)))
  return made


def photos(folder: pathlib.Path, count: int) -> list[Image.Image]:
  """Photographs, enlarged so that all pans stay within them."""
  files = sorted(folder.glob('*.jpg'))[::len(list(folder.glob('*.jpg'))) // count][:count]
  return [Image.open(file).convert('RGB').resize((8 * WIDTH, 6 * WIDTH)) for file in files]


def frames_of(scenes: Sequence[Scene], times: Sequence[float]) -> list[np.ndarray]:
  """What is shown at times of the whole video."""
  starts = np.cumsum([0.0, *(scene.seconds for scene in scenes)])
  found = [int(np.searchsorted(starts, time + 1e-9, 'right')) - 1 for time in times]
  return [scenes[place].frame(time - starts[place]) for place, time in zip(found, times)]


def write(path: pathlib.Path, scenes: Sequence[Scene], *, times: Sequence[float] | None = None,
          rotation: int = 0, ratio: str = '') -> pathlib.Path:
  """Writes an H.264 file; ``times`` make its frame rate variable."""
  if times is None:
    times = np.arange(round(RATE * sum(scene.seconds for scene in scenes))) / RATE
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('libx264', RATE, options=dict(crf='16', preset='ultrafast'))
    stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, 'yuv420p'
    stream.codec_context.time_base = stream.time_base = fractions.Fraction(1, 12_000)
    if ratio:
      stream.codec_context.sample_aspect_ratio = fractions.Fraction(ratio)
    if rotation:
      stream.set_display_rotation(rotation)
    for time, pixels in zip(times, frames_of(scenes, times)):
      frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format='rgb24')
      frame.pts, frame.time_base = round(time * 12_000), fractions.Fraction(1, 12_000)
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  return path
