"""Files of benchmarks as their authors publish them: what is drawn, from what, into which files."""

import functools
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from jaxgen import cli
from jaxgen.core.errors import UserError
from jaxgen.core.image_files import to_png
from jaxgen.evaluation.benchmarks import draw
from jaxgen.evaluation.benchmarks import interleaved
from jaxgen.evaluation.benchmarks import replies
from jaxgen.evaluation.benchmarks.base import Item
from jaxgen.evaluation.benchmarks.base import Unreadable
from jaxgen.evaluation.benchmarks.files import Data
from jaxgen.evaluation.benchmarks.registry import benchmark
from jaxgen.evaluation.benchmarks.registry import BENCHMARKS
from jaxgen.evaluation.rubrics import read_rubric

PNG = to_png(np.zeros((4, 6, 3), np.uint8))


def image(folder, *names):
  for name in names:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(PNG)


def write(folder, name, value):
  folder.mkdir(parents=True, exist_ok=True)
  text = value if isinstance(value, str) else json.dumps(value)
  (folder / name).parent.mkdir(parents=True, exist_ok=True)
  (folder / name).write_text(text)


def read(name, folder):
  return benchmark(name).read(Data(str(folder), name, 'there', str(folder / 'inputs')))


def paths(images, folder):
  return [image.path.removeprefix(f'{folder}/') for image in images]


def questions(name, item):
  return benchmark(name).ask(item, 'out')


def test_wise(tmp_path):
  """Legacy and verified have other ranges of ids; rewrites and the merged file are left out."""
  record = dict(Prompt='A drink of Munich', Explanation='beer', Category='Culture',
                Subcategory='Food', prompt_id=450)
  write(tmp_path, 'cultural_common_sense.json', [record, record | dict(prompt_id=130)])
  for name in ('cultural_common_sense_rewrite.json', 'merge.json'):
    write(tmp_path, name, [record])
  for name, group in (('wise-legacy', 'time'), ('wise-verified', 'time')):
    items = read(name, tmp_path)
    assert [(item.key, item.group, item.files) for item in items] == [
        ('130', 'culture', ('130.png',)), ('450', group, ('450.png',))]
  assert read('wise-legacy', tmp_path)[1].group == 'time'
  question, = questions('wise-legacy', items[0])
  assert question.fields == dict(prompt='A drink of Munich', explanation='beer')
  assert question.parse('2\n1\n0') == dict(consistency=2, realism=1, aesthetic=0)
  question, = questions('wise-verified', items[0])
  assert question.parse('Score: 1') == dict(score=1)
  with pytest.raises(Unreadable):
    question.parse('Score: 2')


def test_imgedit(tmp_path):
  image(tmp_path, 'singleturn/animal/1.jpg')
  write(tmp_path, 'basic_edit.json', {'17': dict(id='animal/1.jpg', prompt='Make it white.',
                                                 edit_type='adjust')})
  item, = read('imgedit', tmp_path)
  assert (item.group, item.files, item.text) == ('adjust', ('17.png',), 'Make it white.')
  question, = questions('imgedit', item)
  assert question.rubric == 'imgedit_adjust'
  assert question.images == (f'{tmp_path}/singleturn/animal/1.jpg', 'out/17.png')


def test_gedit_and_omnicontext_come_in_tables(tmp_path):
  """Images within them are written once; the languages of GEdit are two benchmarks."""
  cell = dict(bytes=PNG, path=None)
  gedit = [dict(task_type='ps_human', key='k', instruction=text, instruction_language=language,
                input_image=cell, input_image_raw=cell, Intersection_exist=both)
           for text, language, both in (('Smile.', 'en', True), ('微笑', 'cn', False))]
  (tmp_path / 'gedit/data').mkdir(parents=True)
  pyarrow.parquet.write_table(pa.Table.from_pylist(gedit), tmp_path / 'gedit/data/train.parquet')
  for language, text in (('en', 'Smile.'), ('cn', '微笑')):
    item, = read(f'gedit-{language}', tmp_path / 'gedit')
    name = f'fullset/ps_human/{language}/k'
    assert (item.text, item.files, list(item.beside)) == (
        text, (f'{name}.png',), [f'{name}_SRCIMG.png'])
    assert open(item.source[0].path, 'rb').read() == PNG
    assert item.facts['intersection'] == (language == 'en')
  omni = dict(key='7', task_type='multi_object', instruction='Both.', instruction_language='en',
              input_images=[cell, cell])
  (tmp_path / 'omni').mkdir()
  pyarrow.parquet.write_table(pa.Table.from_pylist([omni]), tmp_path / 'omni/train.parquet')
  item, = read('omnicontext', tmp_path / 'omni')
  assert item.files == ('fullset/multi_object/7.png',) and len(set(item.reference)) == 2
  assert [len(question.images) for question in questions('omnicontext', item)] == [3, 3]
  with pytest.raises(UserError, match="has no column 'task_type'"):
    pyarrow.parquet.write_table(pa.Table.from_pylist([dict(key='1')]),
                                tmp_path / 'omni/train.parquet')
    read('omnicontext', tmp_path / 'omni')


def test_kris(tmp_path):
  """Some edits have several images; knowledge is scored where there is any."""
  records = [dict(id='1', type='biology', ori_img='1.jpg', ins_en='Grow it.', explain_en='Taller.'),
             dict(id='2', type='multi-element_composition', ori_img=['a.jpg', 'b.jpg'],
                  ins_en='Both.', explain_en='')]
  image(tmp_path, 'biology/1.jpg', 'multi-element_composition/a.jpg',
        'multi-element_composition/b.jpg')
  write(tmp_path, 'final_data.json', records)
  first, second = read('kris', tmp_path)
  assert first.files == ('biology/1.png',) and len(second.source) == 2
  (asked,), (other,) = questions('kris', first), questions('kris', second)
  reply = json.dumps(dict(consistency_score=5, quality_score='4', instruction_score=3,
                          knowledge_score=2, reasoning=''))
  assert asked.parse(reply) == dict(consistency=5, quality=4, instruction=3, knowledge=2)
  assert other.rubric == 'kris' and 'knowledge' not in other.parse(reply)


def test_rise(tmp_path):
  """Logical puzzles have no score of quality, and some edits none of consistency."""
  image(tmp_path, 'a.png', 'b.png', 'ref.png')
  write(tmp_path, 'data_total.json', [
      dict(index='causal_1', category='causal_reasoning', instruction='Drop it.', image='a.png',
           reference='broken', consistency_free=True),
      dict(index='logical_1', category='logical_reasoning', instruction='Solve.', image='b.png',
           reference_img='ref.png')])
  first, second = read('rise', tmp_path)
  assert first.files == ('images/causal_reasoning/causal_1.png',) and first.facts['free']
  assert [question.name for question in questions('rise', first)] == ['reasoning', 'quality']
  consistency, reasoning = questions('rise', second)
  assert paths([draw.FileImage(consistency.images[0])], tmp_path) == ['b.png']
  assert paths([draw.FileImage(reasoning.images[0])], tmp_path) == ['ref.png']
  assert reasoning.parse('So. **Final Score**: 1') == dict(reasoning=1) and reasoning.side == 768
  with pytest.raises(Unreadable):
    reasoning.parse('Final Score: 5')


def test_dreambench_plus(tmp_path):
  """The names that its scorer looks for, JPEG files, and each question three times."""
  image(tmp_path, 'images/animal/00.jpg')
  write(tmp_path, 'captions/animal/00.txt', 'Grey Cat\n a cat at sea \na cat in oil\n')
  first, second = read('dreambench++', tmp_path)
  assert first.text == 'a cat at sea' and second.facts == dict(index=1)
  name = 'live_subject_animal_00_grey_cat'
  assert second.key == f'{name}-1' and second.files == (f'tgt_image/{name}/1_0.jpg',)
  assert set(second.beside) == {f'src_image/{name}/1_0.jpg', f'text/{name}/1_0.txt',
                                'negative_prompt.txt'}
  asked = questions('dreambench++', first)
  assert [question.name for question in asked] == ['cp/0', 'cp/1', 'cp/2', 'pf/0', 'pf/1', 'pf/2']
  draw.write_beside(benchmark('dreambench++'), [(0, first)], str(tmp_path / 'out'))
  assert Image.open(tmp_path / f'out/src_image/{name}/0_0.jpg').format == 'JPEG'


def test_geneval2(tmp_path):
  write(tmp_path, 'geneval2_data.jsonl', json.dumps(dict(
      prompt='two red cups', atom_count=3, vqa_list=[['How many cups are there?', 'two']],
      skills=['count'])) + '\n')
  item, = read('geneval2', tmp_path)
  question, = questions('geneval2', item)
  assert question.words == ('two', ' two', 'Two', ' Two', '2', ' 2')
  assert read_rubric('geneval2').turns(question.fields) == [
      ('user', 'How many cups are there? Answer in one word.')]
  draw.write_beside(benchmark('geneval2'), [(0, item)], str(tmp_path / 'out'))
  assert json.loads((tmp_path / 'out/image_paths.json').read_text()) == {
      'two red cups': f'{tmp_path}/out/00000.png'}


COMM = [dict(id='d', task='task3', model_input='Here are steps: (1) Cut. <IMAGE> Go on.',
             images=['in/1.jpg'])]
BENCH = [dict(id='wikihow_1', image=['in/1.jpg'], task_name='image_editing',
              conversations=[{'from': 'human', 'value': '<image> Make it red.'}])]
OPENING = dict(total_uid='0101001', meta_task_name='Stories', conversations=[
    dict(input=[dict(image='in/1.jpg', text='<BEGIN> A fox runs.')]), dict(output=[])])
GUIDE = dict(id='g', title='How to tie a tie', category='Clothes')
DOCUMENTS = {'comm': ('test.json', COMM), 'interleavedbench': ('interleaved_bench.json', BENCH),
             'opening': ('test_data.jsonl', OPENING), 'how-to': ('prompts.jsonl', GUIDE)}


@pytest.mark.parametrize('name', list(DOCUMENTS))
def test_documents_are_written_and_judged_whole(name, tmp_path):
  file, content = DOCUMENTS[name]
  image(tmp_path, 'in/1.jpg')
  write(tmp_path, file, content)
  item, = read(name, tmp_path)
  out = tmp_path / 'out'
  draw.write_document(benchmark(name), item, str(out), [
      '(1) First.', np.zeros((8, 8, 3), np.uint8), '(2) Then.', np.ones((8, 8, 3), np.uint8)])
  assert json.loads((out / item.key / 'parts.json').read_text()) == [
      '(1) First.', 0, '(2) Then.', 1]
  question, = benchmark(name).ask(item, str(out))
  assert question.fields['document'] == '(1) First.\n<image 1>\n(2) Then.\n<image 2>'
  drawn_images = question.images[len(item.source):]
  assert [Image.open(path).size for path in drawn_images] == [(8, 8), (8, 8)]


def test_documents_have_the_forms_of_comm_and_opening(tmp_path):
  image(tmp_path, 'in/1.jpg')
  write(tmp_path, 'test.json', COMM)
  write(tmp_path, 'test_data.jsonl', OPENING)
  item, = read('comm', tmp_path)
  files = interleaved.document_files(item, 'comm', ['(2) Fold.', 0])
  assert json.loads(files['d_task3/results.json']) == dict(
      model_input=COMM[0]['model_input'], model_output='(2) Fold. <IMAGE>',
      input_image_list=[f'{tmp_path}/in/1.jpg'], output_gt_image_list=[],
      prediction_image_list=['predict_0.jpg'])
  item, = read('opening', tmp_path)
  assert item.text == 'A fox runs.'
  files = interleaved.document_files(item, 'opening', ['It hides.', 0])
  record = json.loads(files['0101001.json'])
  assert record['conversations'] == [OPENING['conversations'][0], dict(output=[
      dict(text='It hides.', image=None), dict(text='<image>', image='./0101001-o-0.jpg')])]


def test_documents_of_two_models_are_compared(endpoint, key, tmp_path, capsys):
  """The judge always prefers A, whoever that is; one of its replies says nothing."""
  image(tmp_path, 'in/1.jpg')
  records = [OPENING | dict(total_uid=f'010100{number}') for number in range(6)]
  write(tmp_path, 'test_data.jsonl', '\n'.join(map(json.dumps, records)))
  for name in ('ours', 'theirs'):
    for item in read('opening', tmp_path):
      draw.write_document(benchmark('opening'), item, str(tmp_path / name),
                          [name, np.zeros((8, 8, 3), np.uint8)])
  write(tmp_path / 'rubrics', 'opening_pair.txt',
        '{document_a} {document_b} [echo A is better]')
  words = ['evaluate', '--benchmark=opening', f'--data={tmp_path}', f'--out={tmp_path}/ours',
           '--judge=judge', f'--judge-url={endpoint.url}', f'--rubrics={tmp_path}/rubrics']
  assert cli.main([*words, f'--against={tmp_path}/theirs']) == 0
  said = capsys.readouterr().out
  found = json.loads((tmp_path / 'ours/battles.json').read_text())
  firsts = [battle['model_A']['name'] for battle in found]
  assert set(firsts) == {'ours', 'theirs'} and {battle['winner'] for battle in found} == {'A'}
  assert f'ours {firsts.count("ours") / 6:.3f}' in said and '6 battles, 0 whose' in said
  body = endpoint.stats()['bodies'][-1]['messages'][-1]['content']
  assert body.count('image_url') == 2 * 3  # the one that was given, and one of each document
  write(tmp_path / 'rubrics', 'opening_pair.txt', '{document_a} [echo Both are good.]')
  assert cli.main([*words, f'--against={tmp_path}/theirs']) == 0
  assert '0 battles, 6 whose replies could not be read' in capsys.readouterr().out
  assert cli.main([*words, f'--against={tmp_path}/ours']) == 1
  assert 'has the name of --out' in capsys.readouterr().err


def test_replies_about_documents():
  parse = functools.partial(interleaved._comm, interleaved.COMM)
  scores = dict(Image_Coherence=dict(overall_score=dict.fromkeys(interleaved.COMM[:4], 7)),
                Completeness=dict(Score='NA'), Image_Quality=dict(Score=9),
                Text_Fidelity=dict(Score=None))
  found = parse(json.dumps(dict(scores=scores)))
  assert found['style_consistency'] == 7 and found['image_quality'] == 9
  assert found['completeness'] is None and found['text_fidelity'] is None
  with pytest.raises(Unreadable):
    parse('{"scores": [1, 2]}')
  with pytest.raises(Unreadable):
    interleaved._flat(1, 5, ('a', 'b'), '{"scores": {"a": 3}}')
  assert interleaved._opening(('Correctness',), '{"scores": {"Correctness": {"Score": 8}}}') == {
      'Correctness': 8}
  assert replies.number('3', 0, 5) == 3


def test_storyboards_are_drawn_in_one_pass(tmp_path):
  image(tmp_path, 'anna.png')
  write(tmp_path, 'prompts.jsonl', dict(id='s', prompt='Anna walks.', outputs=3,
                                        references=['anna.png']))
  item, = read('storyboard', tmp_path)
  assert item.draws == 1 and item.files == ('s_0.png', 's_1.png', 's_2.png')
  identity, consistency = questions('storyboard', item)
  assert len(identity.images) == 4 and len(consistency.images) == 3
  assert identity.parse('{"score": 8, "reasoning": "."}') == dict(identity=8)


def test_every_question_has_a_rubric_of_ours():
  """With the fields that its benchmark fills in."""
  names = {'geneval2', 'dpg', 'wise_legacy', 'wise_verified', 'gedit_consistency', 'gedit_quality',
           'omnicontext_pf', 'omnicontext_sc', 'kris', 'kris_knowledge', 'comm',
           'interleavedbench', 'opening', 'opening_pair', 'how_to', 'rewrite', 'translate_zh'}
  for name in names:
    assert read_rubric(name).turns({})[-1][1]
  assert len(BENCHMARKS) == 20


@pytest.mark.parametrize('name, file, content, said', [
    ('geneval', 'evaluation_metadata.jsonl', '{"tag": "counting"}\n', 'prompt'),
    ('geneval', 'evaluation_metadata.jsonl', '[1]\n', 'tag'),
    ('geneval', 'evaluation_metadata.jsonl', '{"tag"\n', 'is not JSON'),
    ('dpg', 'prompts.jsonl', '{"item_id": 3}\n', 'item_id'),
    ('wise-legacy', 'culture.json', '[{"prompt_id": "1"}]', 'prompt_id'),
    ('imgedit', 'basic_edit.json', '{"1": {}}', 'id'),
    ('kris', 'final_data.json', '[{"id": "1"}]', 'type'),
    ('rise', 'data_total.json', '[3]', 'category'),
    ('dreambench-single', 'dreambench_singleip.json', '[{"prompt": "x"}]', 'image_paths'),
    ('comm', 'test.json', '[{"task": "task5", "id": "a"}]', 'task1, task2, task3, task4'),
    ('opening', 'test_data.jsonl', '{"total_uid": "1"}', 'conversations'),
    ('opening', 'test_data.jsonl', '{"total_uid": "1", "conversations": []}', 'input'),
    ('interleavedbench', 'interleaved_bench.json', '[3]', 'id'),
    ('wise-verified', 'culture.json', '[{"prompt_id": 1001}]', '1 to 1000'),
    ('imgedit', 'basic_edit.json', '{"1": {"id": "a.jpg", "edit_type": "bend"}}', 'is none of add'),
    ('gedit-en', 'gedit_edit.json', '{"1": {"edit_type": "x", "prompt": "", "id": "in/1.jpg"}}',
     'is none of background_change'),
    ('kris', 'final_data.json', '[{"id": "1", "type": "art"}]', 'is none of count_change'),
    ('imgedit', 'basic_edit.json', '[]', 'must hold a JSON object'),
    ('kris', 'final_data.json', '{}', 'must hold a JSON list'),
    ('how-to', 'prompts.jsonl', '{"id": "1"}', 'title')])
def test_damaged_files_end_in_one_line(name, file, content, said, tmp_path):
  image(tmp_path, 'in/1.jpg', 'singleturn/a.jpg')
  write(tmp_path, file, content)
  with pytest.raises(UserError, match=said) as error:
    read(name, tmp_path)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('files, said', [
    (['../x.png'], 'is no name of a file within the results'), (['/x.png'], 'is no name'),
    (['a/../../x.png'], 'is no name'), (['x.png', 'x.png'], 'is the file of two items')])
def test_names_of_files_are_checked(files, said):
  items = [Item(str(number), 'all', '', (file,)) for number, file in enumerate(files)]
  with pytest.raises(UserError, match=said):
    draw.check_files(items)
