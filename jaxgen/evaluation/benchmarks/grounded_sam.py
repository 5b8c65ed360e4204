"""Grounded-SAM as a program: Grounding DINO and SAM of transformers (extra eval).

Answers the lines that ``masks`` describes: boxes around what a text names, a mask in each box, and
their union. Models and thresholds are those of the authors' demo: Grounding DINO Swin-T, SAM ViT-H,
0.3 and 0.25. The weights are read from folders or from the hub, as transformers does.
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

from jaxgen.evaluation.benchmarks import lines

TEXT = 'person. animal. cartoon character.'  # whom a storyboard may be about


class Boxes:
  """Grounding DINO: boxes around what a text names."""

  def __init__(self, path: str, device: str, text: str, box_threshold: float,
               text_threshold: float):
    self._processor = transformers.GroundingDinoProcessor.from_pretrained(path)
    self._model = transformers.GroundingDinoForObjectDetection.from_pretrained(path).to(device)
    self._text = f'{text.lower().rstrip(" .")}.'  # which it was trained on
    self._thresholds = dict(threshold=box_threshold, text_threshold=text_threshold)

  @torch.no_grad()
  def __call__(self, image: Image.Image) -> list[list[float]]:
    """Left, top, right and bottom of each box, in pixels.

    A box counts if its score, that of its surest token, is above the threshold of boxes, and if
    tokens of the text are above that of texts, which give the box its name.
    """
    inputs = self._processor(images=image, text=self._text, return_tensors='pt').to(
        self._model.device)
    found = self._processor.post_process_grounded_object_detection(
        self._model(**inputs), inputs['input_ids'], target_sizes=[image.size[::-1]],
        **self._thresholds)[0]
    return [box for box, named in zip(found['boxes'].tolist(), found['text_labels']) if named]


class Masks:
  """SAM: the mask of what is in a box."""

  def __init__(self, path: str, device: str):
    self._processor = transformers.SamProcessor.from_pretrained(path)
    self._model = transformers.SamModel.from_pretrained(path).to(device)

  @torch.no_grad()
  def __call__(self, image: Image.Image, boxes: Sequence[Sequence[float]]) -> np.ndarray:
    """The union of the masks of all boxes, bool[H, W]."""
    if not boxes:
      return np.zeros(image.size[::-1], bool)
    inputs = self._processor(images=image, input_boxes=[list(boxes)], return_tensors='pt')
    sizes = inputs['original_sizes'], inputs['reshaped_input_sizes']
    logits = self._model(
        pixel_values=inputs['pixel_values'].to(self._model.device),
        input_boxes=inputs['input_boxes'].to(self._model.device, torch.float32),
        multimask_output=False).pred_masks  # [1, boxes, 1, H / 4, W / 4]
    masks, = self._processor.post_process_masks(logits.cpu(), *sizes)  # bool[boxes, 1, H, W]
    return masks.any(0)[0].numpy()


def main() -> None:
  """Answers lines until there are none."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--text', default=TEXT, help='what the subject may be, each with a full stop')
  parser.add_argument('--box-threshold', type=float, default=0.3)
  parser.add_argument('--text-threshold', type=float, default=0.25)
  parser.add_argument('--model', default='IDEA-Research/grounding-dino-tiny')
  parser.add_argument('--sam', default='facebook/sam-vit-huge')
  parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
  args = parser.parse_args()
  if not args.text.strip(' .'):
    parser.error('--text: name what the subject may be')
  boxes = Boxes(args.model, args.device, args.text, args.box_threshold, args.text_threshold)
  masks = Masks(args.sam, args.device)

  def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    image = lines.read_image(request)
    return lines.write_mask(request, masks(image, boxes(image)))

  lines.serve(answer)


if __name__ == '__main__':
  main()
