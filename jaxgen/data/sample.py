"""The sample schema: ordered text and image parts, with a JSON form and a packed binary form.

Image-only, paired, edit, multi-reference and interleaved data are all this one schema. On disk
an image stays as it was encoded; only the pipeline decodes it.
"""

import dataclasses
import json
import zlib
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from jaxgen.core.errors import RecordError
from jaxgen.core.errors import record_error
from jaxgen.core.image_files import to_png
from jaxgen.core.texts import checked

TEXT_ROLES = ('system', 'user', 'assistant')
IMAGE_ROLES = ('context', 'source', 'reference', 'target')


@dataclasses.dataclass(frozen=True)
class FileImage:
  """An image that still lies in a file; it is read when it is decoded."""

  path: str


@dataclasses.dataclass(frozen=True)
class Part:
  """One text or one image of a sample.

  Attributes:
    role: one of ``TEXT_ROLES`` for a text, of ``IMAGE_ROLES`` for an image.
    text: the text, None for an image.
    image: encoded bytes, uint8[H, W, 3] or a file; None for a text and for an image that is only
      asked for.
    loss: True where the part is to be predicted.
    size: (height, width) in pixels that a target must have; None = its bucket.
    seen: the language model sees the image. Of targets it sees those before the last one only.
    clean: the denoiser gets the image as clean latents, where it takes such.
    maskable: masked image modelling may hide what the language model sees.
    variants: paraphrases of a text, ``text`` among them; one is drawn per visit by
      ``draw_variant``. Empty where there is only one wording.
  """

  role: str
  text: str | None = None
  image: bytes | np.ndarray | FileImage | None = None
  loss: bool = False
  size: tuple[int, int] | None = None
  seen: bool = True
  clean: bool = True
  maskable: bool = False
  variants: tuple[str, ...] = ()

  @property
  def is_image(self) -> bool:
    return self.text is None

  @property
  def is_target(self) -> bool:
    """True for an image to be generated; images generated before it have no loss."""
    return self.role == 'target' and self.loss


@dataclasses.dataclass(frozen=True)
class Sample:
  """What a record of any source becomes.

  Attributes:
    id: name of the sample within its source.
    parts: texts and images in reading order.
    task: task that the sample was made for, '' where any will do.
    origin: file, or file:line, that errors point to.
    lineage: where a curated sample comes from, see ``jaxgen.curation.record.Lineage``; JSON values.
  """

  id: str
  parts: tuple[Part, ...]
  task: str = ''
  origin: str = ''
  lineage: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)

  @property
  def texts(self) -> list[Part]:
    return [part for part in self.parts if not part.is_image]

  @property
  def images(self) -> list[Part]:
    return [part for part in self.parts if part.is_image]

  @property
  def targets(self) -> list[Part]:
    return [part for part in self.parts if part.is_target]


def pair(sample_id: str, image: bytes | np.ndarray | FileImage, caption: str | None,
         origin: str = '') -> Sample:
  """The commonest sample: a target image, with a caption or without one."""
  texts = () if caption is None else (Part('user', text=caption),)
  return Sample(sample_id, (*texts, Part('target', image=image, loss=True)), origin=origin)


def text_part(role: str, variants: Sequence[str], *, loss: bool = False) -> Part:
  """A text with one wording or several."""
  return Part(role, text=variants[0], loss=loss,
              variants=tuple(variants) if len(variants) > 1 else ())


def draw_variant(sample: Sample, number: int) -> Sample:
  """The sample with one wording of each text that has several.

  Args:
    sample: any sample; without variants it is returned as it is.
    number: which wordings, 0 or more. Consecutive numbers go through all combinations, so either
      the epoch or a random integer may be given; equal numbers give equal samples.
  """
  assert number >= 0, number
  if not any(part.variants for part in sample.parts):
    return sample
  parts = []
  for part in sample.parts:
    if part.variants:
      number, drawn = divmod(number, len(part.variants))
      part = dataclasses.replace(part, text=part.variants[drawn], variants=())
    parts.append(part)
  return dataclasses.replace(sample, parts=tuple(parts))


def hash_id(sample_id: str) -> int:
  """A 31-bit number that stands for the id in a batch, the same in every process and run."""
  return zlib.crc32(sample_id.encode()) >> 1


def from_json(record: Any, origin: str, folder: str) -> Sample:
  """Reads one JSON object, in the short or the full form.

  Short: ``{"file" or "image": path, "caption": text, "id": name}``; caption and id may be absent.
  Full: ``{"id": name, "task": name, "parts": [part, ...]}``, where a part is
  ``{"text" or "image": text or path, "role": name, "loss": true or false}``. An image may have a
  ``"size": [height, width]``, and with a size it may be null: an image that is asked for. Where a
  caption or a text is a list, its items are paraphrases, one of which is drawn at each visit.

  Args:
    record: what ``json.loads`` gave.
    origin: file:line, for errors.
    folder: what relative image paths are relative to.

  Raises:
    UserError: naming file:line and the field.
  """
  if not isinstance(record, dict):
    raise record_error(origin, record, 'each line must be one JSON object')
  if 'parts' not in record:
    return _from_short(record, origin, folder)
  if not isinstance(record['parts'], list) or not record['parts']:
    raise record_error(f'{origin}: parts', record['parts'], 'must be a list of one or more parts')
  parts = tuple(_part(part, f'{origin}: parts[{index}]', folder)
                for index, part in enumerate(record['parts']))
  return Sample(_string(record, 'id', origin), parts,
                _string(record, 'task', origin) if 'task' in record else '', origin)


def _from_short(record: dict[str, Any], origin: str, folder: str) -> Sample:
  field = 'file' if 'file' in record else 'image'
  if field not in record:
    raise record_error(f'{origin}: file', sorted(record),
                       'no image; give "file" (or "image"), a path')
  path = _string(record, field, origin)
  texts = ()
  if record.get('caption') is not None:
    texts = (text_part('user', _wordings(record, 'caption', origin)),)
  sample_id = _string(record, 'id', origin) if 'id' in record else path
  target = Part('target', image=_file(path, folder), loss=True)
  return Sample(sample_id, (*texts, target), origin=origin)


def _file(path: str, folder: str) -> FileImage:
  """A path as it stands in a record; one that is whole needs no folder."""
  whole = path.startswith('/') or '://' in path
  return FileImage(path if whole else f'{folder}/{path}')


def _part(record: Any, where: str, folder: str) -> Part:
  if not isinstance(record, dict) or ('text' in record) == ('image' in record):
    raise record_error(where, record, 'must be an object with either "text" or "image"')
  kind, roles = ('text', TEXT_ROLES) if 'text' in record else ('image', IMAGE_ROLES)
  role = _string(record, 'role', where)
  if role not in roles:
    raise record_error(f'{where}.role', role, f'use one of {", ".join(roles)} for {kind}')
  loss = record.get('loss', role in ('assistant', 'target'))
  if not isinstance(loss, bool):
    raise record_error(f'{where}.loss', loss, 'must be true or false')
  if kind == 'text':
    return text_part(role, _wordings(record, 'text', where), loss=loss)
  size = _size(record.get('size'), where)
  if record['image'] is None and size:
    return Part(role, loss=loss, size=size)
  return Part(role, image=_file(_string(record, 'image', where), folder), loss=loss,
              size=size)


def _string(record: dict[str, Any], field: str, where: str) -> str:
  if not isinstance(record.get(field), str):
    raise record_error(f'{where}: {field}', record.get(field), 'must be a string')
  return checked(record[field], f'{where}: {field}')


def _wordings(record: dict[str, Any], field: str, where: str) -> tuple[str, ...]:
  value = record.get(field)
  found = value if isinstance(value, list) and value else [value]
  if not all(isinstance(text, str) for text in found):
    raise record_error(f'{where}: {field}', value, 'must be a string, or a list of paraphrases')
  return tuple(checked(text, f'{where}: {field}') for text in found)


def _size(value: Any, where: str) -> tuple[int, int] | None:
  if value is None:
    return None
  if not (isinstance(value, list) and len(value) == 2
          and all(type(side) is int and side > 0 for side in value)):
    raise record_error(f'{where}.size', value, 'must be [height, width] in pixels')
  return value[0], value[1]


def to_bytes(sample: Sample) -> bytes:
  """The sample as one binary record: a JSON header, then the encoded images one after another.

  Arrays are stored as PNG, without loss. ``from_bytes`` reads it back.
  """
  blobs, parts = [], []
  for part in sample.parts:
    entry: dict[str, Any] = {'role': part.role, 'loss': part.loss}
    if part.text is not None:
      entry['text'] = part.text
    if part.image is not None:
      blobs.append(encoded(part.image))
      entry['bytes'] = len(blobs[-1])
    entry |= {name: getattr(part, name) for name, default in _MARKS.items()
              if getattr(part, name) != default}
    parts.append(entry)
  entries = {'id': sample.id, 'task': sample.task, 'parts': parts}
  if sample.lineage:
    entries['lineage'] = sample.lineage
  header = json.dumps(entries).encode()
  return b''.join([len(header).to_bytes(4, 'little'), header, *blobs])


def from_bytes(data: bytes, origin: str) -> Sample:
  """Reads what ``to_bytes`` wrote, now or before parts had more than role, text, image and loss.

  Raises:
    UserError: the record is not one of ours.
  """
  start = 4 + int.from_bytes(data[:4], 'little')
  try:
    header = json.loads(data[4:start])
    parts = []
    for entry in header['parts']:
      image = None
      if 'bytes' in entry:
        end = start + entry['bytes']
        if not start <= end <= len(data):
          raise ValueError(end)
        image, start = data[start:end], end
      # JSON has no tuples: size and variants come back as lists.
      marks = {name: tuple(entry[name]) if isinstance(entry[name], list) else entry[name]
               for name in _MARKS if name in entry}
      parts.append(Part(entry['role'], entry.get('text'), image, entry['loss'], **marks))
      _check_kinds(parts[-1])
    return Sample(checked(header['id'], origin), tuple(parts), header['task'], origin,
                  dict(header.get('lineage', {})))
  except RecordError:
    raise
  except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
    raise record_error(origin, None, 'is not a sample of jaxgen; rewrite the file with '
                       f'`jaxgen data pack` ({type(error).__name__})') from error


def _check_kinds(part: Part) -> None:
  """Raises ``TypeError`` or ``ValueError`` where a field of a stored part holds something else."""
  texts = (*part.variants, *(() if part.text is None else (part.text,)))
  if part.role not in (TEXT_ROLES if texts else IMAGE_ROLES):
    raise ValueError(part.role)
  for text in texts:
    checked(text, part.role)
  if part.size is not None:
    _size(list(part.size), part.role)


def encoded(image: bytes | np.ndarray | FileImage) -> bytes:
  """The image as the bytes of an image file."""
  if isinstance(image, FileImage):
    return epath.Path(image.path).read_bytes()
  if isinstance(image, np.ndarray):
    return to_png(image)
  return image


# Fields of a part that records name only where they differ from the default.
_MARKS = {field.name: field.default for field in dataclasses.fields(Part)
          if field.name not in ('role', 'text', 'image', 'loss')}
