"""Inputs of the recipes of several images, and what their models say of them."""

import itertools
import json
import pathlib

import numpy as np
import onnx
from onnx import helper
import pyarrow as pa
from pyarrow import parquet

from jaxgen.core.image_files import to_png
from jaxgen.curation import edits as edit_stages
from jaxgen.curation import masks
from jaxgen.curation import references as reference_stages
from jaxgen.curation import storyboards as storyboard_stages
from jaxgen.curation import styles as style_stages
from jaxgen.curation import turns
from tests.curation import pools_of
from tests.curation.pools_of import picture
from tests.curation.pools_of import signs

# One face, as a YOLOv8 detector tells it; nobody, as one for poses does.
FACE = [dict(arrays=dict(output0=[[100.0], [100.0], [40.0], [40.0], [0.9]]))]
NOBODY = [dict(arrays=dict(output0=[[0.0]] * 56))]
SUBJECT = signs(0)  # what all people and things of the pools look like, but for some squares


def painter(**told: np.ndarray):
  """A model that draws a picture of known features for each text; '' is any other text."""
  def write(file: pathlib.Path) -> str:
    lines = []
    for number, (text, values) in enumerate(sorted(told.items(), reverse=True)):
      (file.parent / f'{file.name}-{number}.png').write_bytes(picture(values))
      lines.append(dict(images=[f'{file.name}-{number}.png'], **(dict(text=text) if text else {})))
    file.write_text('\n'.join(map(json.dumps, lines)))
    return f'replay:{file}'
  return write


def pooled(operator: str, axes: list[int], shape: list[int]):
  """An ONNX file of one operator over some axes of an image."""
  def write(file: pathlib.Path) -> str:
    node = helper.make_node(operator, ['x'], ['y'], axes=axes, keepdims=len(shape) > 1)
    graph = helper.make_graph(
        [node], 'g', [helper.make_tensor_value_info('x', onnx.TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info('y', onnx.TensorProto.FLOAT, shape)])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid('', 13)], ir_version=8),
              file)
    return f'onnx:{file}'
  return write


# How bright an image is, and how bright each of its pixels.
brightness = pooled('ReduceMean', [1, 2, 3], [1])
depth = pooled('ReduceMean', [1], [1, 1, 32, 32])


def pool(**folders: list[np.ndarray]):
  """Folders of pictures of 512 pixels, one picture that is small and one without a role."""
  def write(folder: pathlib.Path) -> str:
    for name, pictures in folders.items():
      (folder / name).mkdir()
      for number, values in enumerate(pictures):
        (folder / name / f'{number}.png').write_bytes(picture(values, 512))
      (folder / name / 'small.png').write_bytes(picture(values, 256))
    (folder / 'other').mkdir()
    (folder / 'other' / 'a.png').write_bytes(picture(SUBJECT, 512))
    return str(folder)
  return write


people = pool(human=[signs(0, 1), signs(0, 2), signs(0, 3)], object=[signs(0, 4), signs(0, 5)],
              scene=[signs(1), signs(2)])
PROMPTS = {
    ('human', 'object'): 'The person of the first image holds the thing of the second image.',
    ('human', 'scene'): 'The person of the first image sits in the second image.',
    ('object', 'scene'): 'The thing of the first image lies in the second image.',
    ('human', 'human'): 'The person of the first image meets that of the second image.',
    ('human', 'object', 'scene'): 'The person of the first image holds the thing of the second '
                                  'image in the third image.',
    ('human', 'human', 'scene'): 'The person of the first image meets that of the second image in '
                                 'the third image.'}


def reference_answers():
  """Whoever is drawn alone with a place is not who was meant; a thing in a place is badly drawn."""
  writer, judge = [], []
  for roles, text in PROMPTS.items():
    listed = ', '.join(f'the {ordinal} image shows {reference_stages.NAMES[role]}'
                       for ordinal, role in zip(reference_stages.ORDINALS, roles))
    writer.append(dict(text=reference_stages.COMPOSE.format(listed=listed), reply=text))
    quality = 3 if roles == ('object', 'scene') else 9
    judge.append(dict(text=reference_stages.JUDGE.replace('{text}', text), reply=json.dumps(
        dict(prompt=8, identity=8, quality=quality))))
  return dict(faces=FACE, identity=pools_of.tower, writer=writer, judge=judge, painter=painter(
      **{'': SUBJECT, PROMPTS['human', 'scene']: -SUBJECT}))


def echo(folder: pathlib.Path) -> str:
  """Echo-4o: two pictures of references, one without, and one of a single colour."""
  for name, values in (('a', signs(0)), ('b', signs(1)), ('c', signs(2)), ('flat', np.ones(48))):
    (folder / f'{name}.png').write_bytes(picture(values))
  rows = [(['a.png'], 'b.png'), (['a.png', 'b.png'], 'c.png'), ([], 'a.png'),
          (['a.png'], 'flat.png')]
  (folder / 'echo.jsonl').write_text('\n'.join(json.dumps(dict(
      task_type='t', instruction='draw them', input_images=given, output_image=target))
      for given, target in rows))
  return f'echo-4o-image:{folder}'


styled = pool(content=[signs(0, 1), signs(0, 2)], style=[signs(1), signs(0, 3, 4)])


def style_answers():
  """What is drawn looks like both contents, and like the subject of the second style image."""
  return dict(faces=FACE, identity=pools_of.tower, painter=painter(**{'': signs(0, 3)}), judge=[
      dict(text=style_stages.AESTHETIC, reply='{"aesthetic": 8}'),
      dict(text=style_stages.JUDGE, reply='{"style": 8, "content": 9, "quality": 7}')])


def turned(folder: pathlib.Path) -> str:
  """MagicBrush: a chain of two, one of one, and two edits between which one is missing."""
  shown = [picture(signs(0, *range(number))) for number in range(4)]
  rows = [('1', 2, 'Make it night', 1, 2), ('1', 1, 'Add a hat', 0, 1), ('2', 1, 'Add a dog', 0, 1),
          ('3', 1, 'Add a cat', 0, 1), ('3', 3, 'Add a cow', 2, 3)]
  parquet.write_table(pa.Table.from_pylist([dict(
      img_id=name, turn_index=turn, instruction=words,
      source_img=dict(bytes=shown[source], path=None),
      target_img=dict(bytes=shown[target], path=None))
      for name, turn, words, source, target in rows]), folder / 'train-0.parquet')
  return f'magicbrush:{folder}'


def turn_answers():
  """The first proposal is drawn well, but for the picture with the cow; the third one never."""
  proposed = ['Paint it red', 'Let it snow', 'Take the sky away']
  writer, judge = [], []
  for count, done in itertools.product((1, 2, 3), ('Add a dog', 'Add a cat', 'Add a cow')):
    said = [f'{each} behind what {done[4:]} is' for each in proposed[:count]]
    text = turns.PROPOSE.format(count=count, done=turns.DONE.format(steps=f'1. {done}'))
    writer.append(dict(text=text, reply=json.dumps(said)))
    judge += [dict(text=edit_stages.JUDGE.format(text=each), reply=json.dumps(
        dict(fidelity=2 if each.startswith('Take') or done == 'Add a cow' else 8, quality=8)))
              for each in said]
  return dict(writer=writer, judge=judge, editor=painter(**{'': signs(5)}))


def characters(folder: pathlib.Path) -> str:
  """Two characters, a picture that is too bright and a small one."""
  dark = 0.4 * signs(0) - 0.6
  for name, values, side in (('a', dark, 512), ('b', dark[::-1], 512), ('c', np.ones(48), 512),
                             ('d', dark, 256)):
    (folder / f'{name}.png').write_bytes(picture(values, side))
  return str(folder)


def storyboard_answers():
  """Captions for any style and number of panels."""
  captions = ['The character waits.', 'The character runs.', 'The character sleeps.',
              'The character laughs.']
  return dict(faces=FACE, nsfw=brightness, painter=painter(**{'': signs(4)}), captioner=[
      dict(text=storyboard_stages.RECAPTION.format(count=count, style=style),
           reply=json.dumps(captions[:count]))
      for style in storyboard_stages.STYLES for count in (2, 3, 4)])


def objects(folder: pathlib.Path) -> str:
  """A mug to be removed, and one that fills its picture."""
  mask = np.zeros((256, 256, 3), np.uint8)
  mask[100:140, 100:160] = 255
  for name, data in (('a', picture(signs(0))), ('mask', to_png(mask)),
                     ('all', to_png(np.full_like(mask, 255)))):
    (folder / f'{name}.png').write_bytes(data)
  (folder / 'objects.jsonl').write_text('\n'.join(json.dumps(dict(
      image='a.png', mask=f'{mask}.png', object='mug')) for mask in ('mask', 'all')))
  return str(folder / 'objects.jsonl')


def removal_answers():
  """The removal is good, and has its words in Chinese both ways."""
  remove, add = 'Remove the mug from the image.', 'Add the mug to the image.'
  return dict(
      painter=painter(**{masks.INPAINT.format(object='mug'): signs(3)}),
      judge=[dict(text=edit_stages.JUDGE.format(text=remove),
                  reply='{"fidelity": 9, "quality": 8}')],
      writer=[dict(text=edit_stages.TRANSLATE.format(language='Chinese', text=text), reply=said)
              for text, said in ((remove, '去掉杯子'), (add, '加上杯子'))])
