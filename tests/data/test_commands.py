"""``jaxgen data``: what the three commands write and print."""

import pytest

from jaxgen.core.errors import UserError
from jaxgen.data import commands
from jaxgen.data.sources import open_source
from jaxgen.data.tokenizer import load_tokenizer


@pytest.fixture
def spoilt(folder, tmp_path):
  root = tmp_path / 'spoilt'
  root.mkdir()
  for index in range(4):
    data = (folder / f'{index:02d}.png').read_bytes()
    (root / f'{index:02d}.png').write_bytes(data[:80] if index == 1 else data)
  (root / '00.txt').write_text('three short words')
  return root


def test_pack(spoilt, tmp_path, capsys):
  out = str(tmp_path / 'out')
  commands.pack('folder', str(spoilt), out, shards=2)
  printed = capsys.readouterr()
  assert printed.out.startswith(f'{out}: 3 samples in 2 file(s), 1 skipped')
  assert f'skipped {spoilt}/01.png: ' in printed.out and 'packed 4/4' in printed.err
  assert len(open_source('arrayrecord', out)) == 3


def test_pack_shapes(tmp_path):
  commands.pack('shapes', '', str(tmp_path / 'out'), limit=5, size=16)
  assert len(open_source('arrayrecord', str(tmp_path / 'out'))) == 5
  with pytest.raises(UserError, match='--limit = 0: shapes have no end'):
    commands.pack('shapes', '', str(tmp_path / 'more'), size=16)


def test_inspect(spoilt, capsys):
  result = commands.inspect('folder', str(spoilt))
  assert (result['samples'], result['images'], result['without_caption']) == (4, 3, 3)
  assert result['caption_words'] == {'min': 3, 'median': 3, 'max': 3}
  assert result['heights'] == {'min': 16, 'median': 18, 'max': 19}
  assert sum(result['buckets'].values()) == 3
  assert list(result['bad']) == [str(spoilt / '01.png')]
  assert '01.png' in capsys.readouterr().out


def test_tokenizer(folder, spoilt, tmp_path, capsys):
  commands.tokenizer(str(tmp_path / 'a'), vocab=300, kind='folder', path=str(folder))
  assert load_tokenizer(str(tmp_path / 'a')).vocab_size == 300
  assert '300 tokens from 20 captions' in capsys.readouterr().out
  (spoilt / '00.txt').unlink()
  with pytest.raises(UserError, match='no captions'):
    commands.tokenizer(str(tmp_path / 'b'), kind='folder', path=str(spoilt))
