"""``jaxgen data``: what the commands write and print, and what they say of mistakes."""

import io
import json
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from jaxgen import cli
from jaxgen.core.errors import UserError
from jaxgen.data import commands
from jaxgen.data.commands import Opening
from jaxgen.data.sources import open_source
from jaxgen.data.tokenizer import load_tokenizer
from tests.data import test_layouts as layouts


@pytest.fixture
def spoilt(folder, tmp_path):
  root = tmp_path / 'spoilt'
  root.mkdir()
  for index in range(4):
    data = (folder / f'{index:02d}.png').read_bytes()
    (root / f'{index:02d}.png').write_bytes(data[:80] if index == 1 else data)
  (root / '00.txt').write_text('three short words')
  return root


def picture(height, width):
  buffer = io.BytesIO()
  Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(buffer, 'PNG')
  return buffer.getvalue()


def test_pack(spoilt, tmp_path, capsys):
  out = str(tmp_path / 'out')
  commands.pack(Opening('folder', str(spoilt)), out, shards=2)
  printed = capsys.readouterr()
  assert printed.out.startswith(f'{out}: 3 samples in 2 file(s), 1 skipped')
  assert f'skipped {spoilt}/01.png: ' in printed.out and 'packed 4/4' in printed.err
  assert len(open_source('arrayrecord', out)) == 3


@pytest.mark.parametrize('path, task, images', [
    ('', 'pair', {'target': 6}), ('edit', 'edit', {'source': 6, 'target': 6}),
    ('storyboard', 'many_to_many', {'reference': 10, 'target': 18}),
    ('guide', 'dialogue', {'target': 18})])
def test_shapes(path, task, images, tmp_path, capsys):
  """Every command takes drawn tasks; packed samples are those that were drawn."""
  drawn = ['--kind=shapes', f'--path={path}', '--limit=6', '--size=32']
  drawn += ['--fields=count=3'] if path else []
  code, out, _ = run(capsys, 'pack', *drawn, f'--out={tmp_path}/packed')
  assert code == 0 and '6 samples in 1 file(s), 0 skipped' in out
  reports = [run(capsys, 'inspect', *words)[1] for words in (drawn, [f'--path={tmp_path}/packed'])]
  assert reports[0].split('\n', 1)[1] == reports[1].split('\n', 1)[1]
  counts = ', '.join(f'{role} {count}' for role, count in images.items())
  assert f'tasks            {task} 6\nimages           {counts}\n' in reports[0]
  assert 'target heights   min 32, median 32, max 32\n' in reports[0]
  code, out, _ = run(capsys, 'tokenizer', *drawn, f'--out={tmp_path}/tokenizer')
  assert code == 0 and re.search(r': \d+ tokens from \d+ captions', out)
  assert load_tokenizer(str(tmp_path / 'tokenizer')).vocab_size <= 512


@pytest.mark.parametrize('words, message', [
    (('--size=16',), '--limit = 0: shapes have no end'),
    (('--limit=2', '--path=edit'), '--size = 0: shapes have no size'),
    (('--limit=2', '--size=16', '--path=edits'), "--path = 'edits': drawn tasks are scene"),
    (('--limit=2', '--size=16', '--path=edit', '--fields=grid=2x2'), 'have the fields sizes'),
])
def test_mistakes_about_shapes(words, message, capsys):
  code, _, err = run(capsys, 'inspect', '--kind=shapes', *words)
  assert code == 1 and message in err and err.count('\n') == 1


@pytest.mark.parametrize('write', [layouts.numbered, layouts.omnigen2, layouts.bagel])
def test_a_packed_source_holds_the_same_samples(write, tmp_path):
  (tmp_path / 'in').mkdir()
  path = str(write(tmp_path / 'in', layouts.SOME))
  commands.pack(Opening('auto', path), str(tmp_path / 'out'))
  source, packed = open_source('auto', path), open_source('auto', str(tmp_path / 'out'))
  assert len(packed) == len(source) == 5
  for index in range(5):
    assert [(part.role, part.text, part.loss) for part in packed[index].parts] == [
        (part.role, part.text, part.loss) for part in source[index].parts]


def test_inspect_finds_what_cannot_be_read(spoilt, capsys):
  result = commands.inspect(Opening(path=str(spoilt)))
  assert (result['layout'], result['samples']) == ('folder', 4)
  assert result['tasks'] == {'image': 3, 'pair': 1} and result['images'] == {'target': 3}
  assert result['without_text'] == ['01.png', '02.png', '03.png']
  assert result['words'] == {'min': 3, 'median': 3, 'max': 3}
  assert result['target_heights'] == {'min': 16, 'median': 18, 'max': 19}
  assert sum(result['buckets'].values()) == 3
  assert list(result['bad']) == [str(spoilt / '01.png')]
  printed = capsys.readouterr().out
  assert 'without text     3: 01.png, 02.png, 03.png\n' in printed and '01.png: ' in printed
  # A file that is cut short has a good header.
  assert commands.inspect(Opening(path=str(spoilt)), headers=True)['images'] == {'target': 4}


def test_inspect_counts_by_role_and_says_which_layout(tmp_path, capsys):
  path = layouts.omnigen2(tmp_path, layouts.EDITS)
  result = commands.inspect(Opening(path=str(path)))
  assert result['layout'] == 'jsonl, columns as in OmniGen, OmniGen2, X2I2, Echo-4o'
  assert result['tasks'] == {'reference': 3, 'edit': 2, 'pair': 1}
  assert result['images'] == {'reference': 7, 'source': 2, 'target': 6}
  assert re.search('^tasks .*edit 2', capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize('write, layout', [
    (layouts.numbered, 'controls'), (layouts.diffsynth, 'json, columns as in DiffSynth-Studio'),
    (layouts.diffsynth_csv, 'csv, columns as in DiffSynth-Studio'),
    (layouts.bagel, 'parquet, columns as in BAGEL, edits')])
def test_layouts_by_name(write, layout, tmp_path):
  path = str(write(tmp_path, layouts.EDITS[1:3]))
  assert commands.inspect(Opening(path=path))['layout'] == layout


def test_inspect_names_what_is_enlarged_and_what_does_not_match(tmp_path):
  sizes = {'good': ((40, 60), (80, 120)), 'small': ((30, 30), (30, 30)),
           'other': ((60, 40), (40, 60))}
  edits = [layouts.Edit(name, 'x', (picture(*before),), picture(*after))
           for name, (before, after) in sizes.items()]
  result = commands.inspect(Opening(path=str(layouts.numbered(tmp_path, edits))),
                            buckets='area:1600/8')
  assert result['enlarged'] == ['small.png'] and result['misaligned'] == ['other.png']
  with pytest.raises(UserError, match="^--buckets = 'nine': use one of canonical"):
    commands.inspect(Opening(path=str(tmp_path)), buckets='nine')


def test_inspect_takes_requests_and_texts(tmp_path):
  path = tmp_path / 'asked.jsonl'
  path.write_text('\n'.join(json.dumps({'id': name, 'parts': parts}) for name, parts in {
      'asked': [{'text': 'a cat', 'role': 'user'},
                {'image': None, 'role': 'target', 'size': [512, 768]}],
      'told': [{'text': 'q', 'role': 'user'}, {'text': 'a', 'role': 'assistant', 'loss': True}],
  }.items()))
  result = commands.inspect(Opening(path=str(path)))
  assert result['layout'] == 'jsonl, columns by names of our own'
  assert result['tasks'] == {'pair': 1, 'conversation': 1}
  assert result['images'] == {} and result['bad'] == {}


def test_tokenizer(folder, spoilt, tmp_path, capsys):
  commands.tokenizer(Opening('folder', str(folder)), str(tmp_path / 'a'), vocab=300)
  assert load_tokenizer(str(tmp_path / 'a')).vocab_size == 297  # all the words there are
  assert '297 tokens from 20 captions' in capsys.readouterr().out
  (spoilt / '00.txt').unlink()
  with pytest.raises(UserError, match='no captions in it .*name.txt'):
    commands.tokenizer(Opening('folder', str(spoilt)), str(tmp_path / 'b'))


def run(capsys, *words):
  """Exit code, standard output and errors of a command line."""
  code = cli.main(['data', *words])
  printed = capsys.readouterr()
  return code, printed.out, printed.err


def test_folders_of_other_names_on_the_command_line(tmp_path, capsys):
  layouts.numbered(tmp_path, layouts.SOME)
  (tmp_path / 'target').rename(tmp_path / 'after')
  (tmp_path / 'control').rename(tmp_path / 'before')
  fields = ('--fields=target=after', '--fields=inputs=before')
  code, out, _ = run(capsys, 'inspect', f'--path={tmp_path}', *fields)
  assert code == 0 and 'tasks            reference 3, edit 2\n' in out
  code, out, _ = run(capsys, 'pack', f'--path={tmp_path}', *fields, f'--out={tmp_path}/packed')
  assert code == 0 and '5 samples' in out
  code, out, _ = run(capsys, 'tokenizer', f'--path={tmp_path}', *fields, f'--out={tmp_path}/tok')
  assert code == 0 and 'from 5 captions' in out


def test_paths_from_another_folder(tmp_path, capsys):
  (tmp_path / 'images').mkdir()
  table = layouts.omnigen2(tmp_path / 'images', layouts.EDITS)
  moved = table.rename(tmp_path / 'x2i.jsonl')
  code, out, _ = run(capsys, 'inspect', f'--path={moved}', f'--root={tmp_path}/images')
  assert code == 0 and 'samples          6\n' in out


@pytest.mark.parametrize('words, message', [
    ((), "--path = '': name the folder or file of the data"),
    (('--path={root}/nothing',), '/nothing\': no such file or folder; check the path'),
    (('--path={root}', '--fields=target'), "--fields = 'target': write OURS=THEIRS"),
    (('--path={root}', '--fields=target=a', '--fields=target=b'), 'once for each name of ours'),
    (('--path={root}', '--kind=zip'), "'zip': unknown kind of source; use one of"),
])
def test_mistakes_are_one_line(words, message, folder, capsys):
  code, _, err = run(capsys, 'inspect', *(word.format(root=folder) for word in words))
  assert code == 1 and message in err and err.count('\n') == 1


def lose_a_control(root: pathlib.Path):
  (root / 'control/s1.png').unlink()


def add_an_image(root: pathlib.Path):
  layouts.put(root, 'control/stray.png', layouts.png(1))


def skip_a_number(root: pathlib.Path):
  (root / 'control/s4_0001.png').unlink()


@pytest.mark.parametrize('spoil, message', [
    (lose_a_control, 'targets without a control: s1.png; add the controls'),
    (add_an_image, 'controls that belong to no target: control/stray.png; their stems must be'),
    (skip_a_number, r"control/s4 = \['s4_0000.png', 's4_0002.png'\]: .*numbered without a gap"),
])
def test_mistakes_in_folders_of_edits_name_file_and_fix(spoil, message, tmp_path, capsys):
  layouts.numbered(tmp_path, layouts.SOME)
  spoil(tmp_path)
  for command in (['inspect'], ['pack', f'--out={tmp_path}/out']):
    code, _, err = run(capsys, *command, f'--path={tmp_path}')
    assert code == 1 and re.search(message, err) and err.count('\n') == 1
