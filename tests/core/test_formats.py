"""What a newer jaxgen has written is refused by every command that reads it, in one clear line."""

import json

import pytest

from jaxgen import cli
from jaxgen.config import base_config
from jaxgen.config import from_json
from jaxgen.config import to_json
from jaxgen.core.errors import UserError
from jaxgen.core.formats import RUN
from jaxgen.data import cache


@pytest.fixture
def newer(tmp_path):
  """A workdir with a section that is not known here."""
  config = json.loads(to_json(base_config()))
  (tmp_path / 'config.json').write_text(json.dumps(config | {'format': RUN + 1, 'fancy': {}}))
  return tmp_path


@pytest.mark.parametrize('command', [
    'train --config=configs/iomm/tiny.py --config.data.tokenizer=TOKENS --workdir=RUN',
    'sample --workdir=RUN --prompt=x --out=RUN/out', 'evaluate --workdir=RUN',
    'convert export --workdir=RUN --out=RUN/out', 'push --workdir=RUN --push-to=owner/name',
    'train --config=RUN/config.json --workdir=RUN/other'])
def test_a_run_of_a_newer_format_is_refused(newer, command, tiny_tokenizer, capsys):
  words = command.replace('RUN', str(newer)).replace('TOKENS', tiny_tokenizer).split()
  assert cli.main(words) == 1
  err = capsys.readouterr().err
  assert err.endswith(f'config.json: format = {RUN + 1}: written by a newer jaxgen; this one reads '
                      f'format {RUN} and older; `pip install --upgrade jaxgen`\n'), err
  assert [file.name for file in newer.iterdir()] == ['config.json']


def test_a_run_from_before_formats_is_read_and_ours_say_theirs():
  text = to_json(base_config())
  config = json.loads(text)
  assert config.pop('format') == RUN
  before, now = from_json(json.dumps(config)), from_json(text)
  assert before == now and before.to_dict() == base_config().to_dict()


def test_a_cache_of_a_newer_version_is_refused(tmp_path):
  cache.claim(str(tmp_path), {'weights': 'a'})
  info = tmp_path / cache.INFO_FILE
  info.write_text(info.read_text().replace(f'"version": {cache.VERSION}', '"version": 99'))
  with pytest.raises(UserError, match='info.json: version = 99: written by a newer jaxgen'):
    cache.check(str(tmp_path), {'weights': 'a'})
