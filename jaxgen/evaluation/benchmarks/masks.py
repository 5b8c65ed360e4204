"""Foregrounds of images, by a segmenter in a process of its own.

The process reads ``{"image": path, "mask": path}``, writes an image of the same size to ``mask``,
white where the subject is, and answers with the same line.
"""

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np
from etils import epath
from PIL import Image

from jaxgen.core.errors import user_error
from jaxgen.data.decode import decode
from jaxgen.data.decode import DecodeError
from jaxgen.data.sample import FileImage
from jaxgen.evaluation.benchmarks.plugins import answers

FOLDER = 'masks'


def foregrounds(images: Mapping[str, str], folder: str, command: str
                ) -> Iterator[tuple[str, np.ndarray]]:
  """Images whose background is black.

  Args:
    images: name -> path. Names are unique within the folder, and their masks are made once.
    folder: of the results; masks are kept in a folder of ``masks/`` for each command.
    command: of the segmenter.

  Yields:
    ``(name, uint8[H, W, 3])``, without those in which nothing was found.

  Raises:
    UserError: the segmenter fails, or a mask that does not fit its image.
  """
  # Those of another command differ.
  root = epath.Path(folder) / FOLDER / hashlib.sha256(command.encode()).hexdigest()[:8]
  files = {name: root / f'{name.replace("/", "_")}.png' for name in images}
  left = [name for name in images if not files[name].exists()]
  if left:
    root.mkdir(parents=True, exist_ok=True)
    # Under another name until it is whole, as a segmenter may be killed while it writes.
    parts = {name: files[name].with_suffix('.part.png') for name in left}
    requests = (dict(image=images[name], mask=str(parts[name])) for name in left)
    for _, name in zip(answers(command, requests, '--masks'), left):
      if parts[name].exists():
        parts[name].rename(files[name])
  for name, path in images.items():
    masked = _masked(decode(FileImage(path)), files[name], command)
    if masked is not None:
      yield name, masked


def _masked(image: np.ndarray, file: epath.Path, command: str) -> np.ndarray | None:
  try:
    mask = decode(FileImage(str(file)))[..., 0] > 127  # [H, W]
  except DecodeError as error:
    raise user_error('--masks', command, f'wrote no mask that can be read to {file} ({error})'
                     ) from None
  if mask.shape != image.shape[:2]:
    size = Image.fromarray(mask).size
    raise user_error(str(file), size, f'is of another size than its image, {image.shape[1::-1]}')
  return np.where(mask[..., None], image, np.uint8(0)) if mask.any() else None
