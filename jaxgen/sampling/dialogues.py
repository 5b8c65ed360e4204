"""Dialogues in files: what is to be answered, and the folder of an answer that can be gone on with.

The folder holds ``dialogue.json`` (the sample schema, and how far the answer is), every image, and
``dialogue.html``, a page that needs nothing else. It is whole after every part of the answer.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from jaxgen.core.errors import user_error
from jaxgen.core.files import read_json
from jaxgen.core.files import write_bytes
from jaxgen.core.files import write_text
from jaxgen.core.texts import parsed
from jaxgen.data.decode import decode
from jaxgen.data.decode import DecodeError
from jaxgen.data.sample import draw_variant
from jaxgen.data.sample import encoded
from jaxgen.data.sample import FileImage
from jaxgen.data.sample import from_json
from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample
from jaxgen.sampling.dialogue_page import render
from jaxgen.sampling.interleaved import Dialogue
from jaxgen.sampling.jobs import existing
from jaxgen.sampling.jobs import existing_file

RECORD, PAGE = 'dialogue.json', 'dialogue.html'
_FIX = 'remove the folder, or choose another --out'
Settings = Mapping[str, Any]  # what the answer depends on, as JSON has it


def read_dialogue(file: str) -> Sample:
  """The sample of a dialogue file; paths in it are relative to the file.

  Args:
    file: JSON, an object with ``parts`` as a line of a ``jsonl`` source has them, and perhaps an
      ``id``. An answer's ``dialogue.json`` with a further turn of the user is one as well.

  Raises:
    UserError: no such file, no JSON, an unknown role, or an image that is not there.
  """
  path = existing_file(file, '--dialogue')
  record = parsed(path.read_bytes(), f'--dialogue = {file!r}')
  if not isinstance(record, dict) or 'parts' not in record:
    raise user_error('--dialogue', file, 'must be a JSON object with "parts", each {"text" or '
                     '"image": ..., "role": ...}')
  sample = draw_variant(from_json({'id': path.stem, **record}, file, str(path.parent)), 0)
  for index, part in enumerate(sample.parts):
    if part.image is not None:
      existing(part.image.path, f'{file}: parts[{index}].image')
  return sample


class AnswerFolder:
  """The folder of an answer.

  Args:
    folder: made if absent.
    settings: what the answer depends on besides the dialogue.
  """

  def __init__(self, folder: str, settings: Settings):
    self._root, self._settings = epath.Path(folder), dict(settings)
    self._saved = 0  # parts whose images are there
    self._dialogue = ''  # digest of what was given

  def open(self, dialogue: Dialogue) -> Dialogue:
    """The dialogue as far as an earlier call has answered it.

    Args:
      dialogue: that is to be answered.

    Raises:
      UserError: the folder holds the answer to another dialogue, or one that other settings gave,
        or it is damaged.
    """
    self._dialogue = _digest(dialogue.sample)
    file = self._root / RECORD
    if not file.exists():
      return dialogue
    record = read_json(file, _FIX)
    try:
      told = record['answer']
      before, other = dict(told['settings']), told['dialogue'] != self._dialogue
      given, draws, ended = int(told['given']), bool(told['draws']), str(told['ended'])
    except (KeyError, TypeError, ValueError):
      raise user_error(str(file), None, f'is not the record of an answer; {_FIX}') from None
    if other:
      raise user_error('--out', str(self._root), f'holds the answer to another dialogue; {_FIX}')
    for name, value in self._settings.items():
      if before.get(name) != value:
        raise user_error('--out', str(self._root), f'holds an answer with {name} = '
                         f'{before.get(name)!r}, not {value!r}; {_FIX}')
    sample = from_json(record, str(file), str(self._root))
    answer = tuple(_loaded(part, str(file)) for part in sample.parts[given:])
    self._saved = len(sample.parts)
    return dialogue.grown(*answer, draws=draws, ended=ended)

  def save(self, dialogue: Dialogue) -> None:
    """Writes what is new, then the record, then the page; each file whole or not at all."""
    parts = []
    for index, part in enumerate(dialogue.sample.parts):
      name = _name(index, part)
      if index >= self._saved and part.is_image:
        write_bytes(self._root / name, encoded(part.image))
      parts.append({'image': name, 'role': part.role} if part.is_image else
                   {'text': part.text, 'role': part.role})
    record = dict(id=dialogue.sample.id, task='dialogue', parts=parts, answer=dict(
        given=dialogue.given, draws=dialogue.draws, ended=dialogue.ended, dialogue=self._dialogue,
        settings=self._settings))
    write_text(self._root / RECORD, json.dumps(record, indent=2, ensure_ascii=False) + '\n')
    self._saved = len(parts)
    write_text(self._root / PAGE, render(dialogue, self._settings))

  def image(self, index: int, part: Part) -> str:
    """The path of the image that is the part of that number."""
    return str(self._root / _name(index, part))

  @property
  def page(self) -> str:
    """The path of the page."""
    return str(self._root / PAGE)


def _name(index: int, part: Part) -> str:
  """File of an image; a given one keeps its bytes and so its kind of file."""
  kind = epath.Path(part.image.path).suffix.lower() if isinstance(part.image, FileImage) else '.png'
  return f'{index:02d}_{part.role}{kind}'


def _loaded(part: Part, where: str) -> Part:
  """A part of an earlier answer as the loop has left it."""
  if not part.is_image:
    return Part(part.role, text=part.text)
  try:
    return Part(part.role, image=np.array(decode(part.image)))
  except DecodeError as error:
    raise user_error(where, None, f'an image of it cannot be read ({error}); {_FIX}') from None


def _digest(sample: Sample) -> str:
  """Stands for the texts and images of a dialogue."""
  found = hashlib.sha256(sample.id.encode())
  for part in sample.parts:
    content = encoded(part.image) if part.is_image else part.text.encode()
    found.update(f'{part.role}/{len(content)}/'.encode() + content)
  return found.hexdigest()[:16]
