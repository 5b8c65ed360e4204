"""Scores that are cosines of features: DreamBench's, and those of storyboards (L038, L039, L076).

Every score is a mean over pairs. A pair whose image is not there, or in which the segmenter found
nothing, is missing.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from etils import epath

from jaxgen.data.sample import FileImage
from jaxgen.evaluation.benchmarks.base import Item
from jaxgen.evaluation.benchmarks.base import Scored
from jaxgen.evaluation.benchmarks.masks import foregrounds
from jaxgen.features.embed import embed_images
from jaxgen.features.embed import embed_texts
from jaxgen.features.towers import open_tower
from jaxgen.features.towers import Tower
from jaxgen.features.vectors import unit

Vectors = Mapping[str, np.ndarray]  # name of an image, or a text -> f32[E] of length 1


def subjects(items: Sequence[Item], folder: str, towers: Mapping[str, str], masks: str = ''
             ) -> Scored:
  """DINO, CLIP-I and CLIP-T of DreamBooth, on the pairs of DreamBench (L076, L079).

  ``dino`` and ``clip_i``: cosines of an image with each of its references; ``clip_t``: with its
  prompt. The mean over items is that over subjects, since all have as many prompts.

  Args:
    items: with references.
    folder: of the results.
    towers: ``dino``, ``clip`` -> folder or hub id.
    masks: none are used.
  """
  del masks
  names = dict(dino='dino', clip='clip_i')

  def scores(tower: str, own: Item, images: Vectors, texts: Vectors) -> dict[str, float | None]:
    references = [image.path for image in own.reference]
    found = {names[tower]: _mean(images, itertools.product(own.files, references))}
    if tower == 'clip':
      found['clip_t'] = _mean({**images, **texts}, ((file, own.text) for file in own.files))
    return found

  return _scored(items, folder, towers, '', scores)


def storyboard(items: Sequence[Item], folder: str, towers: Mapping[str, str], masks: str = ''
               ) -> Scored:
  """Identity and temporal consistency of storyboards (L038, L039, the paper's equations 1 and 2).

  ``identity/..``: the mean over N images and K references; ``consistency/..``: over the pairs of
  images.

  Args:
    items, folder, towers: as for ``subjects``.
    masks: command that finds foregrounds, see ``masks``; '' compares whole images, which the paper
      does not.
  """
  def scores(tower: str, own: Item, images: Vectors, texts: Vectors) -> dict[str, float | None]:
    del texts
    references = [image.path for image in own.reference]
    return {f'identity/{tower}': _mean(images, itertools.product(own.files, references)),
            f'consistency/{tower}': _mean(images, itertools.combinations(own.files, 2))}

  return _scored(items, folder, towers, masks, scores)


def _scored(items: Sequence[Item], folder: str, towers: Mapping[str, str], masks: str,
            scores: Callable[[str, Item, Vectors, Vectors], dict[str, float | None]]) -> Scored:
  root = epath.Path(folder)
  paths = {file: str(root / file) for item in items for file in item.files}
  paths = {file: path for file, path in paths.items() if epath.Path(path).exists()}
  paths |= {image.path: image.path for item in items for image in item.reference}
  found: list[dict[str, float | None]] = [{} for _ in items]
  for name, place in towers.items():
    tower = open_tower(place)
    images = _images(tower, foregrounds(paths, folder, masks) if masks else (
        (file, FileImage(path)) for file, path in paths.items()))
    words = list(dict.fromkeys(item.text for item in items)) if tower.reads_texts else []
    texts = dict(zip(words, unit(embed_texts(tower, words)), strict=True))
    for own, item in zip(found, items, strict=True):
      own |= scores(name, item, images, texts)
  missing = {f'{item.key}: {name}': 'no such image, or nothing found in it'
             for item, own in zip(items, found, strict=True)
             for name, value in own.items() if value is None}
  return Scored(found, missing, dict(towers=dict(towers), masks=masks or 'none'))


def _images(tower: Tower, images: Iterable[tuple[str, np.ndarray | FileImage]]) -> Vectors:
  """The vectors of images, which are not held in memory together."""
  names = []

  def shown() -> Iterator[np.ndarray | FileImage]:
    for name, image in images:
      names.append(name)
      yield image

  vectors = unit(embed_images(tower, shown()))
  return dict(zip(names, vectors, strict=True))


def _mean(vectors: Vectors, pairs: Iterable[tuple[str, str]]) -> float | None:
  """The mean cosine of pairs; None where one of their vectors is missing, or there is no pair."""
  pairs = list(pairs)
  if not pairs or not all(name in vectors for pair in pairs for name in pair):
    return None
  return float(np.mean([vectors[first] @ vectors[second] for first, second in pairs]))
