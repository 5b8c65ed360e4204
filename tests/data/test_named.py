"""Public sets by name: a tiny file in each documented layout is read as its authors mean it."""

import io
import json
import pickle
import re
import tarfile
import zipfile

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from jaxgen.core.errors import RecordError
from jaxgen.core.errors import UserError
from jaxgen.data.decode import DecodeError
from jaxgen.data.decode import decode
from jaxgen.data.sources import PRESETS
from jaxgen.data.sources import open_source


def picture(seed=0, size=(6, 7)):
  buffer = io.BytesIO()
  pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)
  Image.fromarray(pixels).save(buffer, 'PNG')
  return buffer.getvalue()


A, B, C = picture(1), picture(2), picture(3)


def struct(data):
  return {'bytes': data, 'path': None}


def tar(path, members):
  with tarfile.open(path, 'w') as file:
    for name, data in members.items():
      info = tarfile.TarInfo(name)
      info.size = len(data)
      file.addfile(info, io.BytesIO(data))


def write(root, files):
  """Writes a set: by suffix tables of rows, tars of members, files of bytes."""
  for name, content in files.items():
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == '.parquet':
      parquet.write_table(pyarrow.Table.from_pylist(content), path)
    elif path.suffix == '.jsonl':
      path.write_text('\n'.join(map(json.dumps, content)))
    elif path.suffix == '.json':
      path.write_text(json.dumps(content))
    elif path.suffix == '.tar':
      tar(path, content)
    elif path.suffix == '.pt':
      path.write_bytes(pickle.dumps(content, protocol=2))
    else:
      path.write_bytes(content)
  return str(root)


def edit(a='a.png', b='b.png'):
  return {a: A, b: B}


GEN = [{'from': 'human', 'value': '<image>\nhat'}, {'from': 'gpt', 'value': '<gen_image>'}]
SLOTS = '<img><|image_1|></img> by <img><|image_2|></img>'
SOURCE, REFERENCE = 'source:A user:hat target:B', 'reference:A user:hat target:B'
PAIR = 'user:hat target:A'

# name -> files of the set, and what its first sample is: role:text or role:image.
SETS = {
    'blip3o-60k': ({'x.tar': {'1.jpg': A, '1.txt': b'hat'}}, PAIR),
    'blip3o-pretrain': ({'deep/x.tar': {'1.jpg': A, '1.txt': b'hat', '1.other': b'?'}}, PAIR),
    'text-to-image-2m': ({'data_512_2M/data_000000.tar': {
        '1.jpg': A, '1.json': b'{"prompt": "hat"}'}}, PAIR),
    'journeydb': ({'data/train/train_caption_only.jsonl': [
        {'img_path': './000/a.jpg', 'caption': 'hat'}], 'data/train/000/a.jpg': A}, PAIR),
    'sharegpt-4o-image': ({'ti2i.json': [
        {'input_prompt': 'hat', 'input_image': ['image/a.png'], 'output_image': 'image/b.png'}],
        **edit('image/a.png', 'image/b.png')}, SOURCE),
    'echo-4o-image': ({'Surrel-Fantasy-Image/conflict.jsonl': [
        {'task_type': 't2i', 'instruction': 'hat',
         'output_image': '/Echo-4o-Image/Surrel-Fantasy-Image/images/1.jpg'}],
        'Surrel-Fantasy-Image/images/1.jpg': A}, PAIR),
    'instructpix2pix': ({'data/train-0.parquet': [
        {'original_image': struct(A), 'edit_prompt': 'hat', 'edited_image': struct(B)}]}, SOURCE),
    'instructpix2pix-original': ({
        'seeds.json': [['n1', ['7', '8']]], 'n1/prompt.json': {'edit': 'hat'},
        'n1/7_0.jpg': A, 'n1/7_1.jpg': B}, SOURCE),
    'magicbrush': ({'data/train-0.parquet': [
        {'img_id': '12', 'turn_index': 1, 'source_img': struct(A), 'mask_img': struct(C),
         'instruction': 'hat', 'target_img': struct(B)}], 'data/dev-0.parquet': []}, SOURCE),
    'omniedit': ({'data/train-0.parquet': [
        {'omni_edit_id': 't_1', 'task': 'addition', 'src_img': struct(A), 'edited_img': struct(B),
         'edited_prompt_list': ['hat', 'a hat'], 'o_score': 9.0}]}, SOURCE + ' +1'),
    'nhr-edit': ({'train/metadata.jsonl': [
        {'sample_id': '1', 'source_file_name': 'images/00/1_o.jpg',
         'edited_file_name': 'images/00/1_e.jpg', 'edit_instruction': 'hat',
         'augmented_instructions': ['a hat', 'hat on']}],
        **edit('train/images/00/1_o.jpg', 'train/images/00/1_e.jpg')}, SOURCE + ' +2'),
    'gpt-image-edit': ({'training_json/hq.json': [
        {'image': ['hqedit/i/1.png', 'hqedit/o/1.png'], 'conversations': GEN}],
        **edit('gpt-edit/hqedit/i/1.png', 'gpt-edit/hqedit/o/1.png')}, SOURCE),
    'ultraedit': ({'FreeForm-0.parquet': [
        {'source_image': struct(A), 'edited_image': struct(B), 'edit_prompt': 'hat'}]}, SOURCE),
    'hq-edit': ({'data/train-0.parquet': [
        {'input_image': struct(A), 'output_image': struct(B), 'edit': 'hat'}]}, SOURCE),
    'seed-data-edit': ({'ann/0.jsonl': [
        {'source_image': 'a.png', 'target_image': 'b.png', 'instruction': 'hat'}], **edit()},
        SOURCE),
    'seed-data-edit-multi': ({'multi_turn_editing/annotations/split_1.jsonl': [
        {'source_image': 'p/0.jpg', 'edit_image_1': 'p/1.jpg', 'instruction_1': 'hat',
         'edit_image_2': 'p/2.jpg', 'instruction_2': 'off'}],
        **edit('multi_turn_editing/images/p/0.jpg', 'multi_turn_editing/images/p/1.jpg'),
        'multi_turn_editing/images/p/2.jpg': C}, SOURCE + ' user:off target:C'),
    'uniworld': ({'data.txt': b'pics,json/x.json,false\n', 'json/x.json': [
        {'image': ['in/1.png', 'out/1.png'], 'conversations': GEN}],
        **edit('pics/in/1.png', 'pics/out/1.png')}, SOURCE),
    'pico-banana': ({'sft.jsonl': [
        {'open_image_input_url': 'https://x.example/1', 'local_input_image': 'src/1.jpg',
         'text': 'hat', 'summarized_text': 'a hat', 'output_image': 'images/positive-edit/1.png'}],
        **edit('src/1.jpg', 'images/positive-edit/1.png')}, SOURCE + ' +1'),
    'imgedit': ({'Parquet/a.parquet': [
        {'input_images': ['p/o.png'], 'output_images': ['p/r.png'], 'prompt': 'hat'}],
        **edit('Singleturn/p/o.png', 'Singleturn/p/r.png')}, SOURCE),
    'imgedit-multi': ({'Parquet/m.parquet': [{'data': [
        {'input_images': ['p/o.png'], 'output_images': ['p/1.png'], 'prompt': 'hat'},
        {'input_images': ['p/1.png'], 'output_images': ['p/2.png'], 'prompt': 'off'}]}],
        **edit('Multiturn/p/o.png', 'Multiturn/p/1.png'), 'Multiturn/p/2.png': C},
        SOURCE + ' user:off target:C'),
    'x2i2': ({'jsons/video_icgen/video_icgen.jsonl': [
        {'input_images': ['a.png', 'c.png'], 'output_image': 'b.png', 'instruction': 'hat'}],
        **edit('images/video_icgen/a.png', 'images/video_icgen/b.png'),
        'images/video_icgen/c.png': C}, 'reference:A reference:C user:hat target:B'),
    'anyedit': ({'data/0.parquet': [
        {'image_file': struct(A), 'edit_instruction': 'hat', 'edited_file': struct(B),
         'visual_input': struct(C)}]}, 'source:A reference:C user:hat target:B'),
    'uno-1m': ({'labels/split1.json': [
        {'img_path1': 'split1/a_0.png', 'img_path2': 'split1/a_1.png',
         'caption': {'img_path1': '?', 'img_path2': 'hat', 'subject': ['mug'], 'judgment': 'same'},
         'vlm_filter_cot': {'score_final': score}} for score in (2.0, 4.0, 4e9)],
        **edit('images/split1/a_0.png', 'images/split1/a_1.png')}, REFERENCE),
    'uno': ({'train.json': [
        {'image_paths': ['a.png', 'c.png'], 'image_tgt_path': 'b.png', 'prompt': 'hat'}], **edit(),
        'c.png': C}, 'reference:A reference:C user:hat target:B'),
    'musar-gen': ({'data/train-0.parquet': [
        {'cond_img_0': struct(A), 'cond_img_1': struct(C), 'tgt_img': struct(B),
         'cond_prompt_0': '?', 'cond_prompt_1': '?', 'prompt': 'hat'}]},
        'reference:A reference:C user:hat target:B'),
    'x2i-subject-driven': ({'human.jsonl': [
        {'task_type': 'subject', 'instruction': SLOTS, 'input_images': ['a.png', 'c.png'],
         'output_image': 'b.png'}], **edit('retrieval/a.png', 'retrieval/b.png'),
        'retrieval/c.png': C}, 'reference:A user:by reference:C target:B'),
    'comm': ({'train.pt': [
        {'data_id': 'w1', 'dataset_type': 'wikihow', 'title': 'tea', 'summary_info': ['x'],
         'step_info': [[{'type': 'text', 'content': 'Boil.'},
                        {'type': 'image', 'url': 'https://x.example/1', 'image_path': 'w1/0.jpg'}],
                       [{'type': 'text', 'content': 'Pour.'}]]}], 'images/w1/0.jpg': A},
        'user:tea assistant:Boil. target:A assistant:Pour.'),
    'mmc4': ({'docs_shard_1.jsonl': [
        {'url': '?', 'text_list': ['One.', 'Two.'], 'image_info': [
            {'image_name': 'b.png', 'raw_url': 'https://x.example', 'matched_text_index': 1},
            {'image_name': 'a.png', 'raw_url': 'https://x.example', 'matched_text_index': 0}]}],
        **edit('images/a.png', 'images/b.png')},
        'target:A assistant:One. target:B assistant:Two.'),
    'obelics': ({'data/train-0.parquet': [
        {'texts': ['One.', None], 'images': [None, 'a.png']}], 'data/a.png': A},
        'assistant:One. target:A'),
    'omnicorpus-cc': ({'data/CC-MAIN-2020-01/shard_0.parquet': [
        {'texts': [None, 'One.'], 'images': ['a.png', None]}], 'a.png': A},
        'target:A assistant:One.'),
    'zebra-cot': ({'data/train-0.parquet': [
        {'Question': 'What? <image_start>[problem_image_1]<image_end>', 'Final Answer': '4',
         'Text Reasoning Trace': 'First. <image_start>[reasoning_image_1]<image_end> So.',
         'problem_image_1': struct(A), 'reasoning_image_1': struct(B),
         'reasoning_image_2': None}]},
        'user:What? context:A assistant:First. target:B assistant:So. assistant:4'),
    'llava': ({'chat.json': [{'id': '1', 'image': 'a.png', 'conversations': [
        {'from': 'human', 'value': '<image>\nhat?'}, {'from': 'gpt', 'value': 'no'}]}], 'a.png': A},
        'context:A user:hat? assistant:no'),
    'llava-onevision': ({'chat.jsonl': [{'image': ['a.png', 'b.png'], 'conversations': [
        {'from': 'human', 'value': '<image><image>hat?'}, {'from': 'gpt', 'value': 'no'}]}],
        **edit()}, 'context:A context:B user:hat? assistant:no'),
    'sharegpt4v': ({'chat.json': [{'id': '1', 'image': 'coco/a.png', 'conversations': [
        {'from': 'human', 'value': '<image>\nhat?'}, {'from': 'gpt', 'value': 'no'}]}],
        'data/coco/a.png': A}, 'context:A user:hat? assistant:no'),
}
NAMES = {A: 'A', B: 'B', C: 'C'}


def described(sample):
  words = []
  for part in sample.parts:
    if part.is_image:
      data = part.image if isinstance(part.image, bytes) else open(part.image.path, 'rb').read()
      words.append(f'{part.role}:{NAMES[data]}')
    else:
      words.append(f'{part.role}:{part.text}')
    assert part.loss == (part.role in ('target', 'assistant'))
  more = sum(max(len(part.variants) - 1, 0) for part in sample.parts)
  return ' '.join(words) + (f' +{more}' if more else '')


@pytest.mark.parametrize('name', SETS)
def test_documented_layouts(name, tmp_path):
  files, expected = SETS[name]
  found = open_source(name, write(tmp_path, files))
  assert described(found[0]) == expected
  assert len({found[index].id for index in range(len(found))}) == len(found)


def test_every_preset_is_tested():
  assert set(SETS) | {'subjects200k', 'megalith-10m'} == set(PRESETS)


def test_ids_and_filters(tmp_path):
  assert open_source('magicbrush', write(tmp_path / 'm', SETS['magicbrush'][0]))[0].id == '12-1'
  found = open_source('instructpix2pix-original',
                      write(tmp_path / 'p', SETS['instructpix2pix-original'][0]))
  assert [found[index].id for index in range(2)] == ['n1/7', 'n1/8']
  found = open_source('uno-1m', write(tmp_path / 'u', SETS['uno-1m'][0]))
  assert len(found) == 1 and found[0].origin.endswith('row 1')


def test_subjects_are_two_views_of_one_picture(tmp_path):
  wide = np.random.default_rng(0).integers(0, 255, (528, 1056, 3), np.uint8)
  buffer = io.BytesIO()
  Image.fromarray(wide).save(buffer, 'PNG')

  def row(score, data=buffer.getvalue()):
    scores = score and {'compositeStructure': 5, 'objectConsistency': score, 'imageQuality': 5}
    return {'image': struct(data), 'quality_assessment': scores,
            'description': {'item': 'Mug', 'description_0': 'left', 'description_1': 'right'}}
  rows = [row(4), row(5), row(None), row(5, b'broken')]
  found = open_source('subjects200k', write(tmp_path, {'train-0.parquet': rows}))
  assert len(found) == 4
  left, right = wide[8:520, 8:520], wide[8:520, 528:1040]
  for sample, text, reference, target in ((found[0], 'left', right, left),
                                          (found[1], 'right', left, right)):
    assert [part.role for part in sample.parts] == ['reference', 'user', 'target']
    assert sample.texts[0].text == text
    np.testing.assert_array_equal(sample.images[0].image, reference)
    np.testing.assert_array_equal(sample.images[1].image, target)
  assert [found[index].id for index in range(2)] == ['train-0.parquet:1-0', 'train-0.parquet:1-1']
  with pytest.raises(DecodeError):  # where images are decoded, and counted
    decode(found[3].images[0].image)


@pytest.mark.parametrize('name, files, column', [
    ('megalith-10m', {'data/megalith-00001-of-00010.parquet': [
        {'url_highres': 'https://live.example/1_b.jpg'}]}, 'url_highres'),
    ('obelics', {'data/train-0.parquet': [
        {'texts': ['A.', None], 'images': [None, 'https://x.example/1.jpg']}]}, 'images'),
    ('pico-banana', {'sft.jsonl': [
        {'open_image_input_url': 'https://x.example/1', 'text': 'hat', 'output_image': 'b.png',
         'summarized_text': 'x'}], 'b.png': B}, 'open_image_input_url'),
    ('mmc4', {'a.jsonl': SETS['mmc4'][0]['docs_shard_1.jsonl']}, 'image_info'),
    ('comm', {'a.pt': SETS['comm'][0]['train.pt']}, 'step_info'),
])
def test_sets_of_urls_ask_for_a_download(name, files, column, tmp_path):
  with pytest.raises(UserError, match=rf'{column}\b.*download the images'):
    open_source(name, write(tmp_path, files))


@pytest.mark.parametrize('name, file, broken, said', [
    ('mmc4', 'docs_shard_1.jsonl', {'text_list': None, 'image_info': []}, 'text_list.*a list'),
    ('mmc4', 'docs_shard_1.jsonl', {'text_list': ['One.'], 'image_info': [{'image_name': 'a.png'}]},
     'matches no sentence'),
    ('comm', 'train.pt', {'data_id': 'w2', 'title': 'tea', 'step_info': None}, 'step_info.*a list'),
    ('comm', 'train.pt', {'data_id': 'w2', 'title': 'tea', 'step_info': [['Boil.']]}, 'with "type"'),
    ('obelics', 'data/train-0.parquet', {'texts': None, 'images': ['a.png']}, 'texts.*a list')])
def test_a_row_of_another_form_is_a_broken_record(name, file, broken, said, tmp_path):
  files = SETS[name][0]
  found = open_source(name, write(tmp_path, {**files, file: [*files[file], broken]}))
  assert described(found[0]) == SETS[name][1]
  with pytest.raises(RecordError, match=said):
    found[len(found) - 1]


def test_a_prompt_file_that_is_missing_is_a_broken_record(tmp_path):
  path = write(tmp_path, SETS['instructpix2pix-original'][0])
  found = open_source('instructpix2pix-original', path)
  next(tmp_path.rglob('prompt.json')).unlink()
  with pytest.raises(RecordError, match='prompt.json: cannot be read'):
    found[0]


def test_columns_that_differ_are_listed_and_can_be_named(tmp_path):
  path = write(tmp_path, {'data/0.parquet': [
      {'image_file': struct(A), 'edit_instruction': 'hat', 'edited': struct(B)}]})
  with pytest.raises(UserError, match=re.escape(
      "--path: target = 'edited_file': no such column") + '.*edit_instruction, edited, image_file'):
    open_source('anyedit', path)
  assert described(open_source('anyedit', path, fields={'target': 'edited'})[0]) == SOURCE


def test_test_splits_are_not_trained_on(tmp_path):
  path = write(tmp_path, {f'data/{name}-0.parquet': SETS['hq-edit'][0]['data/train-0.parquet'] * n
                          for name, n in (('train', 2), ('test', 3), ('dev', 4))})
  assert [len(open_source('hq-edit', path, split=split))
          for split in ('train', 'test', 'validation')] == [2, 3, 4]


class Evil:

  def __reduce__(self):
    return (print, ('run',))


@pytest.mark.parametrize('legacy', [False, True])
def test_pickles_run_nothing(legacy, tmp_path, capsys):
  path = tmp_path / 'train.pt'

  def save(value):
    data = pickle.dumps(value, protocol=2)
    if legacy:
      parts = (0x1950a86a20f9469cfc6c, 1001, {'little_endian': True})
      path.write_bytes(b''.join(pickle.dumps(part, protocol=2) for part in parts) + data)
    else:
      with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('train/data.pkl', data)
  rows = SETS['comm'][0]['train.pt']
  write(tmp_path, {'images/w1/0.jpg': A})
  save(rows)
  assert described(open_source('comm', str(path))[0]) == SETS['comm'][1]
  save([*rows, {'title': Evil()}])
  with pytest.raises(UserError, match=f'^{path}: refused: .*asks for .*print'):
    open_source('comm', str(path))
  save([np.zeros(3)])
  with pytest.raises(UserError, match='refused: .*asks for numpy'):
    open_source('comm', str(path))
  save(rows)
  # Without its end an archive is read as a pickle, and as one its first letter asks for a tensor.
  for cut in (path.read_bytes()[:-30], b'PK\x03\x04 cut short\n'):
    path.write_bytes(cut)
    with pytest.raises(UserError, match='no pickle, or damaged'):
      open_source('comm', str(path))
  assert capsys.readouterr().out == ''
