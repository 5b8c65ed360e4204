"""GenEval's detector and colours as a program: Mask2Former and CLIP of transformers (extra eval).

Reads and answers the lines that ``detections`` describes, or those of ``masks``. The weights are
read from folders or from the hub, as transformers does.
"""

import argparse
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

from jaxgen.evaluation.benchmarks import lines
from jaxgen.evaluation.benchmarks.verdicts import COLORS
from jaxgen.evaluation.benchmarks.verdicts import MOST
from jaxgen.evaluation.benchmarks.verdicts import OBJECTS
from jaxgen.evaluation.benchmarks.verdicts import THRESHOLD

TEMPLATES = ('a photo of a {color} {name}', 'a photo of a {color}-colored {name}',
             'a photo of a {color} object')
GROUND = (153, 153, 153)  # of what is not the object

Objects = Mapping[str, Sequence[tuple[list[float], np.ndarray]]]  # box and score, bool[H, W]


class Detector:
  """Mask2Former trained on COCO's instances: boxes around its masks, of all 80 classes."""

  def __init__(self, path: str, device: str):
    self._processor = transformers.AutoImageProcessor.from_pretrained(path)
    self._model = transformers.Mask2FormerForUniversalSegmentation.from_pretrained(path).to(device)
    if self._model.config.num_labels != len(OBJECTS):
      sys.exit(f'{path}: has {self._model.config.num_labels} classes; use one for the 80 of COCO')

  @torch.no_grad()
  def __call__(self, image: Image.Image) -> Objects:
    """class -> its objects, the surest first."""
    inputs = self._processor(images=image, return_tensors='pt').to(self._model.device)
    segments = self._processor.post_process_instance_segmentation(
        self._model(**inputs), threshold=THRESHOLD, target_sizes=[image.size[::-1]],
        return_binary_maps=True)[0]
    found: dict[str, list[tuple[list[float], np.ndarray]]] = {}
    for mask, info in zip(segments['segmentation'], segments['segments_info']):
      mask = np.asarray(mask.cpu(), bool)
      rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
      if len(rows):
        sides = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1, info['score'])
        box = [float(side) for side in sides]
        found.setdefault(OBJECTS[info['label_id']], []).append((box, mask))
    return {name: sorted(own, key=lambda entry: -entry[0][4])[:MOST]
            for name, own in found.items()}


class Colors:
  """CLIP's choice among ten colours of an object, whose surroundings are grey."""

  def __init__(self, path: str, device: str):
    self._processor = transformers.CLIPProcessor.from_pretrained(path)
    self._model = transformers.CLIPModel.from_pretrained(path).to(device)

  @torch.no_grad()
  def __call__(self, image: Image.Image, objects: Sequence[tuple[list[float], np.ndarray]],
               name: str) -> list[str]:
    """The colour of each object of the class ``name``."""
    texts = [template.format(color=color, name=name) for color in COLORS for template in TEMPLATES]
    words = self._processor(text=texts, return_tensors='pt', padding=True).to(self._model.device)
    embedded = _unit(self._model.get_text_features(**words))
    classes = _unit(embedded.reshape(len(COLORS), len(TEMPLATES), -1).mean(1))
    chosen = []
    for box, mask in objects:
      ground = Image.new('RGB', image.size, GROUND)
      crop = Image.composite(image, ground, Image.fromarray(mask)).crop(
          tuple(round(side) for side in box[:4]))
      pixels = self._processor(images=crop, return_tensors='pt').to(self._model.device)
      features = _unit(self._model.get_image_features(**pixels))
      chosen.append(COLORS[int((features @ classes.T).argmax())])
    return chosen


def answer(request: Mapping[str, Any], detector: Detector, colors: Callable[[], Colors]
           ) -> dict[str, Any]:
  """The answer to one line; of one with a ``mask`` it writes all objects into that file."""
  image = lines.read_image(request)
  objects = detector(image)
  if 'mask' in request:
    whole = np.zeros(image.size[::-1], bool)
    for _, mask in (found for own in objects.values() for found in own):
      whole |= mask
    return lines.write_mask(request, whole)
  named = {name: colors()(image, objects[name][:count], name)
           for name, count in request['colors'].items() if name in objects}
  return dict(image=request['image'], colors=named, objects={
      name: [box for box, _ in own] for name, own in objects.items()})


def _unit(features: Any) -> torch.Tensor:
  features = getattr(features, 'pooler_output', features)
  return features / features.norm(dim=-1, keepdim=True)


def main() -> None:
  """Answers lines until there are none."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--model', default='facebook/mask2former-swin-small-coco-instance')
  parser.add_argument('--clip', default='openai/clip-vit-large-patch14')
  parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
  args = parser.parse_args()
  detector = Detector(args.model, args.device)
  colors = functools.cache(lambda: Colors(args.clip, args.device))  # masks need none
  lines.serve(lambda request: answer(request, detector, colors))


if __name__ == '__main__':
  main()
