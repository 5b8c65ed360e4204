"""Errors of a cache name the command that writes a cache of its kind."""

import dataclasses
import json

import pytest

from jaxgen.core.errors import UserError
from jaxgen.data import cache
from jaxgen.data import image_tokens
from jaxgen.data import states

SHAPE = states.ConditioningShape(tokens=2, width=4, dtype='float32', pooled=0, guidance=False,
                                 pads=False)
KINDS = {
    'latents': (cache.Cache, cache.COMMAND, {}),
    'states': (states.States, states.COMMAND, {states.SHAPE: dataclasses.asdict(SHAPE)}),
    'tokens': (image_tokens.ImageTokens, image_tokens.COMMAND,
               {image_tokens.WIDTH: 4, image_tokens.DTYPE: 'float32'})}


@pytest.mark.parametrize('kind', KINDS)
def test_the_command_of_its_kind_is_named(kind, tmp_path):
  opened, command, fields = KINDS[kind]
  with pytest.raises(UserError) as missing:
    opened(str(tmp_path))
  assert str(missing.value).endswith(f'no cache there; write one with {command}')
  (tmp_path / 'info.json').write_text(json.dumps({'version': cache.VERSION} | fields))
  (tmp_path / f'{kind}-0123-1.arrayrecord').write_bytes(b'no records')
  with pytest.raises(UserError) as damaged:
    opened(str(tmp_path))
  assert f'remove this file and run {command} again' in str(damaged.value)
