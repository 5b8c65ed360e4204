"""Layouts of a user's own data: one set of edits in every one of them is one set of samples."""

import csv
import dataclasses
import io
import json
import pathlib

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from jaxgen.core.errors import UserError
from jaxgen.data.decode import decode
from jaxgen.data.sources import open_source


@dataclasses.dataclass(frozen=True)
class Edit:
  stem: str
  text: str
  inputs: tuple[bytes, ...]
  target: bytes


def png(seed):
  pixels = np.random.default_rng(seed).integers(0, 255, (8 + seed % 3, 9, 3), np.uint8)
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, 'PNG')
  return buffer.getvalue()


# Six samples, with 0 to 3 inputs. Layouts that need as many inputs everywhere hold a part of them.
EDITS = tuple(
    Edit(f's{number}', f'edit "{number}", please',
         tuple(png(10 * number + k) for k in range(count)), png(100 + number))
    for number, count in enumerate((0, 1, 1, 2, 3, 2)))


def put(root: pathlib.Path, name: str, data: bytes | str) -> str:
  path = root / name
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(data if isinstance(data, bytes) else data.encode())
  return name


def files_of(root, edit):
  """Writes the images of a sample; gives the paths of its inputs and of its target."""
  inputs = [put(root, f'in/{edit.stem}-{k}.png', data) for k, data in enumerate(edit.inputs)]
  return inputs, put(root, f'out/{edit.stem}.png', edit.target)


def lines(rows):
  return '\n'.join(json.dumps(row) for row in rows) + '\n'


def numbered(root, edits):
  for edit in edits:
    put(root, f'target/{edit.stem}.png', edit.target)
    put(root, f'target/{edit.stem}.txt', edit.text + '\n')
    for k, data in enumerate(edit.inputs):
      put(root, f'control/{edit.stem}_{k:04d}.png' if len(edit.inputs) > 1 else
          f'control/{edit.stem}.png', data)
  return root


def folders(root, edits):
  for edit in edits:
    put(root, f'images/{edit.stem}.png', edit.target)
    for k, data in enumerate(edit.inputs, start=1):
      put(root, f'control_{k}/{edit.stem}.png', data)
  put(root, 'images/captions.json', json.dumps({f'{edit.stem}.png': edit.text for edit in edits}))
  return root


def top(root, edits):
  for edit in edits:
    put(root, f'{edit.stem}.png', edit.target)
    put(root, f'{edit.stem}.txt', edit.text)
    put(root, f'conditioning/{edit.stem}.png', edit.inputs[0])
  return root


def omnigen2(root, edits):
  rows = []
  for edit in edits:
    inputs, target = files_of(root, edit)
    rows.append({'task_type': 'edit', 'instruction': edit.text, 'output_image': target,
                 **({'input_images': inputs} if inputs else {})})
  put(root, 'x2i.jsonl', lines(rows))
  return root / 'x2i.jsonl'


def echo(root, edits):
  """Paths as they were on the authors' machine, below a folder that exists here by another name."""
  rows = []
  for edit in edits:
    inputs, target = files_of(root / 'sub/images', edit)
    rows.append({'task_type': 't2i', 'instruction': edit.text,
                 'output_image': f'/Echo-4o-Image/sub/images/{target}',
                 'input_images': [f'/Echo-4o-Image/sub/images/{path}' for path in inputs]})
  put(root, 'sub/sub.jsonl', lines(rows))
  return root / 'sub/sub.jsonl'


def diffsynth(root, edits):
  rows = []
  for edit in edits:
    inputs, target = files_of(root, edit)
    rows.append({'image': target, 'prompt': edit.text, 'edit_image': inputs})
  put(root, 'metadata.json', json.dumps(rows))
  return root


def diffsynth_csv(root, edits):
  put(root, 'metadata.csv', '')
  with open(root / 'metadata.csv', 'w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(['image', 'prompt', 'edit_image'])
    for edit in edits:
      inputs, target = files_of(root, edit)
      writer.writerow([target, edit.text, *(inputs or [''])])
  return root


def musubi(root, edits):
  rows = []
  for edit in edits:
    inputs, target = files_of(root, edit)
    names = ['control_path'] if len(inputs) == 1 else [f'control_path_{k}' for k in range(3)]
    rows.append({'image_path': str(root / target), 'caption': edit.text,
                 **{name: str(root / path) for name, path in zip(names, inputs)}})
  put(root, 'set.jsonl', lines(rows))
  return root / 'set.jsonl'


def uno(root, edits):
  rows = []
  for edit in edits:
    inputs, target = files_of(root, edit)
    rows.append({'image_paths': inputs, 'image_tgt_path': target, 'prompt': edit.text})
  put(root, 'uno.json', json.dumps(rows))
  return root / 'uno.json'


def sharegpt(root, edits):
  rows = []
  for edit in edits:
    inputs, target = files_of(root, edit)
    rows.append({'input_prompt': edit.text, 'output_image': target,
                 **({'input_image': inputs} if inputs else {})})
  put(root, 'ti2i.json', json.dumps(rows))
  return root / 'ti2i.json'


def uniworld(root, edits):
  rows = []
  for edit in edits:
    inputs, target = files_of(root, edit)
    rows.append({'image': [*inputs, target] if inputs else target, 'conversations': [
        {'from': 'human', 'value': '<image>\n' * len(inputs) + edit.text},
        {'from': 'gpt', 'value': '<gen_image>'}]})
  put(root, 'uniworld.json', json.dumps(rows))
  return root / 'uniworld.json'


def bagel(root, edits):
  parquet.write_table(pyarrow.Table.from_pylist([
      {'id': edit.stem, 'image_list': [*edit.inputs, edit.target],
       'instruction_list': [[edit.text]]} for edit in edits]), root / 'multi_ref.parquet')
  return root / 'multi_ref.parquet'


ANY, SOME, ONE, TWO = EDITS, EDITS[1:], EDITS[1:3], (EDITS[3], EDITS[5])
WRITERS = [(numbered, SOME), (folders, TWO), (top, ONE), (omnigen2, ANY), (echo, ANY),
           (diffsynth, ANY), (diffsynth_csv, EDITS[:3]), (musubi, ANY), (uno, ANY), (sharegpt, ANY),
           (uniworld, ANY), (bagel, ANY)]


@pytest.mark.parametrize('write, edits', WRITERS, ids=lambda value: getattr(value, '__name__', ''))
def test_every_layout_gives_the_same_samples(write, edits, tmp_path):
  found = open_source('auto', str(write(tmp_path, edits)))
  assert len(found) == len(edits)
  for index, edit in enumerate(edits):
    sample = found[index]
    assert pathlib.PurePath(sample.id).stem == edit.stem
    role = 'source' if len(edit.inputs) == 1 else 'reference'
    assert [part.role for part in sample.parts] == [role] * len(edit.inputs) + ['user', 'target']
    assert [part.loss for part in sample.parts] == [False] * (len(edit.inputs) + 1) + [True]
    assert sample.texts[0].text == edit.text and not sample.texts[0].variants
    for part, data in zip(sample.images, (*edit.inputs, edit.target), strict=True):
      np.testing.assert_array_equal(decode(part.image), decode(data))
    assert found[index] == sample


def test_folders_of_any_name_by_fields(tmp_path):
  numbered(tmp_path, SOME)
  (tmp_path / 'target').rename(tmp_path / 'after')
  (tmp_path / 'control').rename(tmp_path / 'before')
  found = open_source('auto', str(tmp_path), fields=(('target', 'after'), ('reference', 'before')))
  assert [len(found[index].images) for index in range(5)] == [2, 2, 3, 4, 3]
  assert found[0].parts[0].role == 'reference'
  with pytest.raises(UserError, match='fields = .*name the folder "target"'):
    open_source('controls', str(tmp_path), fields=(('source', 'before'),))


def test_controls_that_are_missing_or_unused_are_listed(tmp_path):
  numbered(tmp_path, SOME)
  (tmp_path / 'control/s1.png').unlink()
  (tmp_path / 'control/s5_0000.png').unlink()
  (tmp_path / 'control/s5_0001.png').unlink()
  with pytest.raises(UserError, match=' = 2: targets without a control: s1.png, s5.png'):
    open_source('auto', str(tmp_path))
  put(tmp_path, 'control/other_0.png', png(1))
  put(tmp_path, 'control/s77.png', png(1))
  with pytest.raises(UserError, match=' = 2: controls that belong to no target: '
                     'control/other_0.png, control/s77.png'):
    open_source('auto', str(tmp_path))


@pytest.mark.parametrize('extra, message', [
    ('control/s3_0003.png', 'numbered without a gap'),
    ('control/s3.png', 'numbered without a gap'),
    ('control/s1.webp', 'same target and number'),
])
def test_numbers_of_controls_leave_no_doubt(extra, message, tmp_path):
  numbered(tmp_path, SOME)
  put(tmp_path, extra, png(1))
  with pytest.raises(UserError, match=message):
    open_source('auto', str(tmp_path))


def test_a_control_missing_in_one_of_two_folders_is_named(tmp_path):
  folders(tmp_path, TWO)
  (tmp_path / 'control_2/s5.png').unlink()
  with pytest.raises(UserError, match=' = 1: controls are missing: control_2/s5'):
    open_source('auto', str(tmp_path))


def test_kind_folder_makes_no_targets_of_controls(tmp_path):
  with pytest.raises(UserError, match='use kind controls or auto'):
    open_source('folder', str(numbered(tmp_path, SOME)))


def test_files_missing_from_a_table_are_listed(tmp_path):
  path = omnigen2(tmp_path, EDITS)
  (tmp_path / 'in/s4-2.png').unlink()
  (tmp_path / 'out/s2.png').unlink()
  with pytest.raises(UserError, match=r'^.*x2i.jsonl = 2: images that it names are missing: '
                     r'.*out/s2.png \(x2i.jsonl:3\), .*in/s4-2.png \(x2i.jsonl:5\)'):
    open_source('auto', str(path))


def test_a_number_missing_from_a_row_is_an_error(tmp_path):
  files_of(tmp_path, EDITS[3])
  path = put(tmp_path, 'm.jsonl', lines([{
      'image_path': 'out/s3.png', 'caption': 'x', 'control_path_0': 'in/s3-0.png',
      'control_path_2': 'in/s3-1.png'}]))
  with pytest.raises(UserError, match=r'm.jsonl:1: control_path_\{n\} = \[0, 2\]: numbers are'):
    open_source('jsonl', str(tmp_path / path))


def test_chains_of_edits_are_turns(tmp_path):
  images = [png(seed) for seed in range(3)]
  parquet.write_table(pyarrow.Table.from_pylist([
      {'image_list': images, 'instruction_list': [['first', 'the first'], ['second']]}]),
      tmp_path / 'a.parquet')
  sample = open_source('auto', str(tmp_path))[0]
  assert [part.role for part in sample.parts] == ['source', 'user', 'target', 'user', 'target']
  assert sample.parts[1].variants == ('first', 'the first') and sample.parts[3].text == 'second'
  assert [part.image for part in sample.images] == images and sample.id == 'a.parquet:0'
  parquet.write_table(pyarrow.Table.from_pylist([
      {'image_list': images, 'instruction_list': [['a'], ['b'], ['c']]}]), tmp_path / 'a.parquet')
  with pytest.raises(UserError, match=r'a.parquet: row 0 = .3 images, 3 instructions'):
    open_source('auto', str(tmp_path))


def test_slots_put_images_into_the_text(tmp_path):
  files_of(tmp_path, EDITS[3])
  row = {'instruction': '<img><|image_1|></img> wears <img><|image_2|></img>.',
         'input_images': ['in/s3-0.png', 'in/s3-1.png'], 'output_image': 'out/s3.png'}
  sample = open_source('auto', str(tmp_path / put(tmp_path, 'a.jsonl', lines([row]))))[0]
  assert [part.role for part in sample.parts] == ['reference', 'user', 'reference', 'user',
                                                  'target']
  assert [part.text for part in sample.texts] == ['wears', '.']
  row['instruction'] = 'Put <image_2> on <image_1>'
  sample = open_source('auto', str(tmp_path / put(tmp_path, 'a.jsonl', lines([row]))))[0]
  assert [part.image.path[-8:] for part in sample.images] == ['s3-1.png', 's3-0.png',
                                                               't/s3.png']
  row['input_images'].append('in/s3-0.png')
  with pytest.raises(UserError, match='3 images, 2 slots'):
    open_source('auto', str(tmp_path / put(tmp_path, 'a.jsonl', lines([row]))))


def test_conversations_about_images_are_context_and_answers(tmp_path):
  files_of(tmp_path, EDITS[0])
  row = {'id': '7', 'image': 'out/s0.png', 'conversations': [
      {'from': 'human', 'value': '<image>\nWhat is it?'}, {'from': 'gpt', 'value': 'Noise.'},
      {'from': 'human', 'value': 'Sure?'}, {'from': 'gpt', 'value': 'Yes.'}]}
  path = tmp_path / 'chat.json'
  path.write_text(json.dumps([row]))
  sample = open_source('auto', str(path))[0]
  assert [(part.role, part.text, part.loss) for part in sample.parts] == [
      ('context', None, False), ('user', 'What is it?', False), ('assistant', 'Noise.', True),
      ('user', 'Sure?', False), ('assistant', 'Yes.', True)]
  assert sample.id == '7'
  row['conversations'][0]['value'] = 'What is it?'
  path.write_text(json.dumps([row]))
  assert open_source('auto', str(path))[0].parts == sample.parts
  row['conversations'][0]['value'] = '<image><image>'
  path.write_text(json.dumps([row]))
  with pytest.raises(UserError, match='1 images, 2 slots'):
    open_source('auto', str(path))


def test_auto_refuses_what_it_cannot_tell(tmp_path):
  put(tmp_path, 'a.tar', b'')
  put(tmp_path, 'b.parquet', b'')
  with pytest.raises(UserError, match=r"several kinds, \['parquet', 'tar'\]"):
    open_source('auto', str(tmp_path))
  path = put(tmp_path, 'rows.json', json.dumps([{'foo': 1, 'bar': 2}]))
  with pytest.raises(UserError, match=r"rows.json = \['bar', 'foo'\]: columns of no known layout"):
    open_source('auto', str(tmp_path / path))
