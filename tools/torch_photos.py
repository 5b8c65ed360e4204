"""The same work as a PyTorch data set: PIL decodes and fits, ``DataLoader`` makes batches."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import tokenizers
import torch
from PIL import Image
from PIL import ImageOps

PREFETCH = 2  # batches that each worker has on its way, PyTorch's own default
MEAN = np.asarray([0.485, 0.456, 0.406], np.float32)
STD = np.asarray([0.229, 0.224, 0.225], np.float32)


@dataclasses.dataclass
class Photos(torch.utils.data.Dataset):
  """Captioned JPEG files as pixels and token ids.

  Attributes:
    files, captions: the photographs.
    tokenizer: ``tokenizer.json`` of the captions.
    size: side of the square that an image is fitted to, in pixels.
    view: side of the square that the language model sees; 0 = it sees none.
    length: token ids of a caption, padded.
    draft: lets libjpeg decode at the smallest scale with twice the pixels per side, as jaxgen does.
  """

  files: list[str]
  captions: list[str]
  tokenizer: str
  size: int
  view: int
  length: int
  draft: bool

  def __len__(self) -> int:
    return len(self.files)

  def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
    with Image.open(self.files[index]) as opened:
      if self.draft:
        least = 2 * max(self.size, self.view)
        opened.draft('RGB', (least, least))
      image = ImageOps.exif_transpose(opened).convert('RGB')
    example = {'pixels': torch.from_numpy(np.array(_fitted(image, self.size)))}
    if self.view:
      values = np.asarray(_fitted(image, self.view), np.float32) / 255
      example['view'] = torch.from_numpy(((values - MEAN) / STD).transpose(2, 0, 1))
    ids = self._encode(self.captions[index])
    example['tokens'] = torch.tensor(ids + [0] * (self.length - len(ids)))
    return example

  def _encode(self, text: str) -> list[int]:
    # Each worker loads its own.
    if '_backend' not in self.__dict__:
      self._backend = tokenizers.Tokenizer.from_file(self.tokenizer)
    return self._backend.encode(text).ids[:self.length]


def _fitted(image: Image.Image, side: int) -> Image.Image:
  """Covers the square, cuts the middle out; only the middle is computed."""
  return ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)


class Batches:
  """Epochs of a fixed number of batches from workers that stay.

  Processes are spawned: a fork of a process with JAX's threads may hang.
  """

  def __init__(self, photos: Photos, batch: int, batches: int, workers: int):
    sampler = torch.utils.data.RandomSampler(photos, num_samples=batch * batches)
    self._loader = torch.utils.data.DataLoader(
        photos, batch, sampler=sampler, num_workers=workers, prefetch_factor=PREFETCH,
        persistent_workers=True, multiprocessing_context='spawn')

  def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
    return iter(self._loader)
