"""A detector in a process of its own, by JSON lines, and GenEval's verdicts on what it finds.

The process reads ``{"image": path, "colors": {class: count}}`` from its standard input and answers
each line with ``{"image": path, "objects": {class: [[left, top, right, bottom, score], ..]},
"colors": {class: [color, ..]}}``, colours being those of the surest objects above 0.3, in that
order.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from jaxgen.core.files import append_line
from jaxgen.core.files import read_lines
from jaxgen.core.files import write_text
from jaxgen.evaluation.benchmarks import verdicts
from jaxgen.evaluation.benchmarks.base import Item
from jaxgen.evaluation.benchmarks.base import Scored
from jaxgen.evaluation.benchmarks.plugins import answers

FILE, RESULTS = 'detections.jsonl', 'results.jsonl'
_NEEDED = {'image': str, 'objects': dict}


def detected(items: Sequence[Item], folder: str, command: str) -> Scored:
  """Verdicts on the images of GenEval.

  Detections are kept in ``detections.jsonl`` with the command that found them; another command is
  asked again, and the last line of an image counts. ``results.jsonl`` is what the official script
  writes.

  Args:
    items: of GenEval.
    folder: of the results.
    command: that starts the detector; '' reads detections that are there already.

  Raises:
    UserError: the detector ends before it has answered for every image.
  """
  root, known = epath.Path(folder), _known(epath.Path(folder) / FILE)
  wanted = [(item, file) for item in items for file in item.files if (root / file).exists()]
  left = [(item, file) for item, file in wanted
          if file not in known or known[file].get('detector', command) != command]
  if left and command:
    for (_, file), found in zip(left, answers(command, _requests(root, left), '--detector')):
      known[file] = found | dict(image=file, detector=command)
      append_line(root / FILE, json.dumps(known[file]))
  results, scores, missing = [], [], {}
  for item in items:
    own = {}
    for file in item.files:
      own[file] = None
      if file in known:
        right, reason = verdict_on(known[file], item)
        own[file] = float(right)
        results.append(_result(item, str(root / file), right, reason, known[file]))
      else:
        missing[file] = 'no such image' if not (root / file).exists() else 'not detected'
    scores.append(own)
  write_text(root / RESULTS, ''.join(json.dumps(line) + '\n' for line in results))
  return Scored(scores, missing, dict(detector=command or 'detections on disk'))


def verdict_on(line: dict[str, Any], item: Item) -> tuple[bool, str]:
  """The verdict on one image from the line of its detections."""
  colors = line.get('colors') or {}
  objects = {}
  for name, boxes in line['objects'].items():
    ordered = sorted(boxes, key=lambda box: -box[4])
    own = [*colors.get(name, ()), *[''] * len(ordered)]
    objects[name] = [verdicts.Found(tuple(box[:4]), box[4], color)
                     for box, color in zip(ordered, own)]
  return verdicts.verdict(verdicts.kept(objects, item.group), item.facts)


def _known(file: epath.Path) -> dict[str, dict[str, Any]]:
  return {line['image']: line for line in read_lines(file, _NEEDED)}


def _requests(root: epath.Path, images: Sequence[tuple[Item, str]]) -> Iterator[dict[str, Any]]:
  for item, file in images:
    colored = {clause['class']: clause['count'] for clause in item.facts['include']
               if 'color' in clause}
    yield dict(image=str(root / file), colors=colored)


def _result(item: Item, file: str, right: bool, reason: str, line: dict[str, Any]
            ) -> dict[str, Any]:
  """A line of the official result file."""
  metadata = next(text for name, text in item.beside.items() if name.endswith('metadata.jsonl'))
  objects = {name: boxes for name, boxes in line['objects'].items() if boxes}
  return dict(filename=file, tag=item.group, prompt=item.text, correct=right, reason=reason,
              metadata=metadata, details=json.dumps(objects))
