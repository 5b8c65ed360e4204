"""Images of known features, a tower that reads them, and sets of captions and edits on disk."""

import json
import pathlib

import numpy as np
import onnx
from onnx import helper
import pyarrow as pa
from pyarrow import parquet

from jaxgen.core.image_files import to_png

CELLS = (4, 4, 3)  # colours of an image, dark or light each


def signs(seed: int, *flipped: int) -> np.ndarray:
  """f32[48] of -1 and 1; two images whose signs differ in k places have the cosine 1 - k / 24."""
  made = np.random.default_rng(seed).choice([-1.0, 1.0], 48).astype(np.float32)
  made[list(flipped)] *= -1
  return made


def picture(values: np.ndarray, side: int = 256) -> bytes:
  """An image file of 4 x 4 squares by 48 values of -1 to 1."""
  cells = (127.5 + 100 * values.reshape(CELLS)).astype(np.uint8)
  return to_png(cells.repeat(side // 4, 0).repeat(side // 4, 1))


def tower(file: pathlib.Path) -> str:
  """Writes an ONNX file whose features are the colours of the squares; returns its --model."""
  graph = helper.make_graph(
      [helper.make_node('AveragePool', ['x'], ['y'], kernel_shape=[8, 8], strides=[8, 8]),
       helper.make_node('Flatten', ['y'], ['features'])], 'g',
      [helper.make_tensor_value_info('x', onnx.TensorProto.FLOAT, [1, 3, 32, 32])],
      [helper.make_tensor_value_info('features', onnx.TensorProto.FLOAT, [1, 48])])
  model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 13)], ir_version=8)
  helper.set_model_props(model, dict(mean='0.5'))
  onnx.save(model, file)
  return f'onnx:{file}'


def documents(folder: pathlib.Path) -> str:
  """MMC4: one mug seen thrice and something else, one picture twice, one alone, one broken."""
  (folder / 'images').mkdir()
  images = {'mug': signs(0), 'mug2': signs(0, 0, 1, 2), 'mug3': signs(0, 3, 4, 5, 6, 7, 8),
            'other': signs(1), 'dog': signs(2), 'alone': signs(3)}
  for name, values in images.items():
    (folder / 'images' / f'{name}.png').write_bytes(picture(values))
  (folder / 'images' / 'dog2.png').write_bytes(picture(0.9 * signs(2)))
  (folder / 'images' / 'small.png').write_bytes(picture(signs(4), 64))
  (folder / 'images' / 'broken.png').write_bytes(b'no image')
  told = [(['Mugs.', 'A blue mug on the table.'], {'mug': 1, 'other': 1, 'small': 0}),
          (['a blue mug, on the table', 'The dog runs fast!'],
           {'mug2': 0, 'dog': 1, 'dog2': 1, 'broken': 1}),
          (['A BLUE MUG ON THE TABLE', 'Nobody else says this.'], {'mug3': 0, 'alone': 1})]
  (folder / 'docs.jsonl').write_text('\n'.join(json.dumps(dict(
      url=f'https://example.org/{number}', text_list=texts, image_info=[
          dict(image_name=f'{name}.png', matched_text_index=place)
          for name, place in images.items()])) for number, (texts, images) in enumerate(told)))
  return f'mmc4:{folder}'


def edits(folder: pathlib.Path) -> str:
  """MagicBrush: one edit that is good and five that are not, or whose reverse must be asked for."""
  base = np.linspace(0.2, 1, 48).astype(np.float32)
  rolled = np.roll(base, 6)
  targets = {'Add a hat to the image.': rolled, 'Make it night': np.roll(base, 8),
             'Do nothing at all': base, 'Draw something new': -base, 'Make it bad': rolled,
             'Make it ugly': rolled}
  rows = [dict(img_id=f'{number}', turn_index=1, instruction=words,
               source_img=dict(bytes=picture(base), path=None),
               target_img=dict(bytes=picture(target), path=None))
          for number, (words, target) in enumerate(targets.items())]
  parquet.write_table(pa.Table.from_pylist(rows), folder / 'train-0.parquet')
  return f'magicbrush:{folder}'
