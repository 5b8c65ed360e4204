"""Photographs of camera size with captions, in every format: what ``bench_data.py`` reads."""

import dataclasses
import io
import json
import pathlib
import tarfile

import pyarrow
from PIL import Image
from PIL import ImageOps
from pyarrow import parquet

from jaxgen.data.archive import write_archive
from jaxgen.data.commands import tokenizer_texts
from jaxgen.data.sources import open_source
from jaxgen.data.tokenizer import train_tokenizer

FORMATS = ('arrayrecord', 'tar', 'parquet')
QUALITY = 92
STEP = 16  # pixels: sides of a camera's photographs are whole blocks of JPEG
ROW_GROUP = 16  # rows
VOCAB = 1024


@dataclasses.dataclass(frozen=True)
class PhotoSet:
  """One data set, written several times.

  Attributes:
    files: JPEG files.
    captions: of the files.
    paths: format -> what a source of that kind opens.
    tokenizer: folder of one that was trained on the captions.
  """

  files: list[str]
  captions: list[str]
  paths: dict[str, str]
  tokenizer: str

  @property
  def megabytes(self) -> float:
    """Mean size of a file."""
    return sum(pathlib.Path(file).stat().st_size for file in self.files) / len(self.files) / 1e6


def write_photo_set(photos: pathlib.Path, out: pathlib.Path, count: int, pixels: float) -> PhotoSet:
  """Enlarges the first photographs of a folder and writes them in all formats.

  Args:
    photos: a folder with ``photos.jsonl``, lines of ``file`` and ``caption``.
    out: an empty folder.
    count: number of photographs; they repeat where the folder has fewer.
    pixels: area of each.
  """
  if not (photos / 'photos.jsonl').exists():
    raise SystemExit(f'--photos={photos}: holds no photos.jsonl; give a folder of captioned JPEGs')
  records = [json.loads(line) for line in (photos / 'photos.jsonl').read_text().splitlines()]
  plain = out / 'files'
  plain.mkdir()
  files, captions = [], []
  for index in range(count):
    record = records[index % len(records)]
    file = plain / f'{index:05d}.jpg'
    file.write_bytes(enlarged(photos / record['file'], pixels))
    file.with_suffix('.txt').write_text(record['caption'])
    files.append(str(file))
    captions.append(record['caption'])
  paths = {kind: str(out / f'photos.{kind}') for kind in FORMATS}
  write_archive(open_source('folder', str(plain)), paths['arrayrecord'])
  with tarfile.open(paths['tar'], 'w') as tar:
    for file in sorted(plain.iterdir()):
      tar.add(file, file.name)
  parquet.write_table(pyarrow.table({
      'image': [pathlib.Path(file).read_bytes() for file in files], 'caption': captions,
  }), paths['parquet'], row_group_size=ROW_GROUP)
  train_tokenizer(tokenizer_texts(captions), VOCAB, str(out / 'tokenizer'))
  return PhotoSet(files, captions, paths, str(out / 'tokenizer'))


def enlarged(file: pathlib.Path, pixels: float) -> bytes:
  """The photograph as a JPEG of about this area and its own proportions."""
  with Image.open(file) as opened:
    image = ImageOps.exif_transpose(opened).convert('RGB')
  scale = (pixels / (image.width * image.height))**0.5
  width, height = (round(side * scale / STEP) * STEP for side in image.size)
  buffer = io.BytesIO()
  image.resize((width, height), Image.Resampling.BICUBIC).save(buffer, 'JPEG', quality=QUALITY)
  return buffer.getvalue()
