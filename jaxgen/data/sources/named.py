"""Public data sets by name: where their files lie, what their columns are called, what is kept.

Column names are those that the authors or an independent loader use. What no one states is found
out when the set is opened: a column that is not there is an error that lists those that are, and
``fields`` of the source replaces single names.
"""

import csv
import dataclasses
import fnmatch
import io
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

from etils import epath

from jaxgen.core.errors import record_error
from jaxgen.core.errors import user_error
from jaxgen.core.texts import decoded
from jaxgen.core.texts import parsed
from jaxgen.data.sources import documents
from jaxgen.data.sources.base import Chain
from jaxgen.data.sources.base import Names
from jaxgen.data.sources.base import Place
from jaxgen.data.sources.base import Source
from jaxgen.data.sources.base import data_files
from jaxgen.data.sources.base import existing
from jaxgen.data.sources.base import files_below
from jaxgen.data.sources.base import is_pattern
from jaxgen.data.sources.base import of_split
from jaxgen.data.sources.builders import Build
from jaxgen.data.sources.builders import builder_of
from jaxgen.data.sources.builders import nested_turns
from jaxgen.data.sources.builders import numbered_turns
from jaxgen.data.sources.builders import two_views
from jaxgen.data.sources.fields import Root
from jaxgen.data.sources.fields import Row
from jaxgen.data.sources.fields import has
from jaxgen.data.sources.parquet import ParquetTable
from jaxgen.data.sources.pickles import read_pickle
from jaxgen.data.sources.rows import RowSource
from jaxgen.data.sources.table import Table
from jaxgen.data.sources.tables import JsonLines
from jaxgen.data.sources.tables import Listed
from jaxgen.data.sources.tables import read_json
from jaxgen.data.sources.tar import IMAGE
from jaxgen.data.sources.tar import TarTable


@dataclasses.dataclass(frozen=True)
class Preset:
  """How a public set lies on the disk.

  Attributes:
    files: glob of its tables, at any depth below the folder that the user names.
    fields: our names -> theirs.
    optional: of our names, those that some rows or whole tables lack.
    build: makes a sample of a row; None = what the fields are for.
    roots: folders that its paths start from, below the user's folder; {stem} = name of the table.
    views: samples that one row gives.
    keep: the filter of the authors; ``judged`` are the columns that it reads.
    urls: column of the addresses of images that the set itself does not hold.
  """

  files: str
  fields: Mapping[str, Names]
  optional: tuple[str, ...] = ()
  build: Build | None = None
  roots: tuple[str, ...] = ('',)
  views: int = 1
  keep: Callable[[Row], bool] | None = None
  judged: tuple[str, ...] = ()
  urls: str = ''


def open_named(name: str, place: Place) -> Source:
  """A public set.

  Args:
    name: a key of ``PRESETS``.
    place: folder of the downloaded and unpacked set, or some of its files.

  Raises:
    UserError: its files are not there, a column is not there, or images must be downloaded first.
  """
  preset = PRESETS[name]
  files = _files(name, preset, place)
  base = epath.Path(place.path)
  if is_pattern(place.path) or not base.is_dir():
    base = files[0].parent
  preset = dataclasses.replace(preset, fields={**preset.fields, **place.fields})
  return Chain([_open(name, preset, table, root, place)
                for file in files for table, root in _tables(preset, file, base, place)])


def _files(name: str, preset: Preset, place: Place) -> list[epath.Path]:
  if is_pattern(place.path):
    return data_files(place, ())
  folder = existing(place.path, place.field)
  if not folder.is_dir():
    return [folder]
  found = sorted(file for file in files_below(folder)
                 if fnmatch.fnmatchcase(f'/{file.relative_to(folder)}', f'*/{preset.files}'))
  if not found:
    raise user_error(place.field, place.path, f'no {preset.files} below it, as {name} has; name '
                     'the folder of the unpacked set')
  return of_split(found, folder, place)


def _tables(preset: Preset, file: epath.Path, base: epath.Path,
            place: Place) -> list[tuple[Table, Root]]:
  """The tables that a file holds or points to, and where their paths start."""
  if file.suffix == '.txt':
    return _indexed(file)
  folders = [place.root] if place.root else [
      str(base / root.format(stem=file.stem)) for root in preset.roots] + [
          str(file.parent), str(file.parent.parent)]
  return [(_READERS[file.suffix](file) if file.name != 'seeds.json' else _seeds(file),
           Root(*folders))]


def _open(name: str, preset: Preset, table: Table, root: Root, place: Place) -> RowSource:
  for ours, theirs in preset.fields.items():
    if ours in preset.optional or not len(table) or has(table.columns, theirs):
      continue
    fix = (f'no such column in {table.path}; it has {", ".join(sorted(table.columns))}; name the '
           'right one in fields')
    if preset.urls in table.columns:
      fix = (f'{name} holds only URLs, in the column {preset.urls}: download the images first and '
             f'add their paths as the column {theirs}')
    raise user_error(f'{place.field}: {ours}', theirs, fix)
  fields = {ours: theirs for ours, theirs in preset.fields.items()
            if ours not in preset.optional or has(table.columns, theirs)}
  source = RowSource(table, fields, root, preset.build or builder_of(fields), views=preset.views,
                     keep=preset.keep, judged=preset.judged)
  if preset.urls and len(source) and not root.found:
    raise user_error(place.field, place.path, f'{name} holds only URLs, in the column '
                     f'{preset.urls}: download the images first, into '
                     f'{preset.roots[0] or "the folder of the set"}, or set root')
  return source


def _indexed(file: epath.Path) -> list[tuple[Table, Root]]:
  """UniWorld's data.txt: lines of ``image root, annotation file, region weighting``."""
  found = []
  text = decoded(file.read_bytes(), str(file))
  for number, line in enumerate(csv.reader(io.StringIO(text)), start=1):
    if not line:
      continue
    if len(line) < 2:
      raise user_error(f'{file}:{number}', line, 'must be image root, annotation file, true or '
                       'false')
    root, annotation = (str(file.parent / cell.strip()) for cell in line[:2])
    found.append((read_json(existing(annotation, f'{file}:{number}')), Root(root)))
  return found


class _Prompts(Listed):
  """Rows of InstructPix2Pix whose instruction stands in a file of its own, read when needed."""

  def __getitem__(self, index: int) -> Row:
    row = super().__getitem__(index)
    file = self.path.parent / row['name'] / 'prompt.json'
    try:
      prompt = parsed(file.read_bytes(), str(file))
    except OSError as error:
      raise record_error(str(file), None, f'cannot be read ({error.strerror or error})') from None
    if not isinstance(prompt, dict):
      raise record_error(str(file), None, 'must be a JSON object with "edit"')
    return {**row, 'edit': prompt.get('edit')}


def _seeds(file: epath.Path) -> Listed:
  """InstructPix2Pix as its authors serve it: seeds.json lists [name, [seed, ...]]."""
  rows = [{'id': f'{name}/{seed}', 'name': name, 'edit': None,
           'before': f'{name}/{seed}_0.jpg', 'after': f'{name}/{seed}_1.jpg'}
          for name, seeds in parsed(file.read_bytes(), str(file)) for seed in seeds]
  return _Prompts(file, rows)


def _well_judged(row: Row) -> bool:
  """The authors' filter of Subjects200K: all three scores are 5 or more."""
  scores: dict[str, Any] = row.get('quality_assessment') or {}
  return all((scores.get(name) or 0) >= 5
             for name in ('compositeStructure', 'objectConsistency', 'imageQuality'))


def _same_subject(row: Row) -> bool:
  """The authors' filter of UNO-1M, score_final >= 4; one row has a score far beyond the scale."""
  score = (row.get('vlm_filter_cot') or {}).get('score_final')
  return isinstance(score, (int, float)) and 4 <= score < 5


_READERS: dict[str, Callable[[epath.Path], Table]] = {
    '.json': read_json, '.jsonl': JsonLines, '.parquet': ParquetTable, '.tar': TarTable,
    '.pt': read_pickle}
_PAIRS = {'target': IMAGE, 'caption': 'txt'}
_LLAVA = {'images': 'image', 'conversations': 'conversations'}
_OMNIGEN = {'inputs': 'input_images', 'instruction': 'instruction', 'target': 'output_image'}
_IMGEDIT = {'inputs': 'input_images', 'instruction': 'prompt', 'target': 'output_images'}

PRESETS: dict[str, Preset] = {
    # Text to image
    'blip3o-60k': Preset('*.tar', _PAIRS),
    'blip3o-pretrain': Preset('*.tar', _PAIRS),
    'text-to-image-2m': Preset('*.tar', {'target': IMAGE, 'caption': 'json.prompt'}),
    'journeydb': Preset('train_caption_only.jsonl', {'target': 'img_path', 'caption': 'caption'}),
    'megalith-10m': Preset('*.parquet', {'target': 'url_highres'}, urls='url_highres'),
    'sharegpt-4o-image': Preset(
        '*.json', {'inputs': 'input_image', 'instruction': 'input_prompt',
                   'target': 'output_image'}, optional=('inputs',)),
    'echo-4o-image': Preset('*.jsonl', _OMNIGEN, optional=('inputs',)),
    # Edits
    'instructpix2pix': Preset('*.parquet', {'source': 'original_image', 'target': 'edited_image',
                                            'instruction': 'edit_prompt'}),
    'instructpix2pix-original': Preset('seeds.json', {'id': 'id', 'source': 'before',
                                                      'instruction': 'edit', 'target': 'after'}),
    'magicbrush': Preset('*.parquet', {'id': ('img_id', 'turn_index'), 'source': 'source_img',
                                       'instruction': 'instruction', 'target': 'target_img'}),
    'omniedit': Preset('*.parquet', {'id': 'omni_edit_id', 'source': 'src_img',
                                     'instruction': 'edited_prompt_list', 'target': 'edited_img'}),
    'nhr-edit': Preset('metadata.jsonl', {
        'id': 'sample_id', 'source': 'source_file_name', 'target': 'edited_file_name',
        'instruction': ('edit_instruction', 'augmented_instructions')}),
    'gpt-image-edit': Preset('*.json', _LLAVA, roots=('', 'gpt-edit')),
    'ultraedit': Preset('*.parquet', {'source': 'source_image', 'instruction': 'edit_prompt',
                                      'target': 'edited_image'}),
    'hq-edit': Preset('*.parquet', {'source': 'input_image', 'instruction': 'edit',
                                    'target': 'output_image'}),
    'seed-data-edit': Preset('*.jsonl', {'source': 'source_image', 'target': 'target_image',
                                         'instruction': ('instruction', 'instruction_new')}),
    'seed-data-edit-multi': Preset('split_*.jsonl', {
        'source': 'source_image', 'instruction': 'instruction_{n}', 'target': 'edit_image_{n}'},
        build=numbered_turns, roots=('multi_turn_editing/images', 'images')),
    'uniworld': Preset('data.txt', _LLAVA),
    'pico-banana': Preset('sft.jsonl', {
        'source': 'local_input_image', 'instruction': ('text', 'summarized_text'),
        'target': 'output_image'}, urls='open_image_input_url'),
    'imgedit': Preset('*.parquet', _IMGEDIT, roots=('Singleturn', '')),
    'imgedit-multi': Preset('*.parquet', {
        'images': 'data', **{ours: f'data.{theirs}' for ours, theirs in _IMGEDIT.items()}},
        build=nested_turns, roots=('Multiturn', '')),
    'x2i2': Preset('jsons/*.jsonl', _OMNIGEN, optional=('inputs',), roots=('images/{stem}',)),
    'anyedit': Preset('*.parquet', {'source': 'image_file', 'instruction': 'edit_instruction',
                                    'reference': 'visual_input', 'target': 'edited_file'},
                      optional=('reference',)),
    # Subjects and several references
    'subjects200k': Preset('*.parquet', {
        'images': 'image', 'instruction': ('description.description_0',
                                           'description.description_1')},
        build=two_views, views=2, keep=_well_judged, judged=('quality_assessment',)),
    'uno-1m': Preset('*.json', {'reference': 'img_path1', 'instruction': 'caption.img_path2',
                                'target': 'img_path2'},
                     roots=('images',), keep=_same_subject, judged=('vlm_filter_cot',)),
    'uno': Preset('*.json', {'reference': ('image_path', 'image_paths'), 'instruction': 'prompt',
                             'target': 'image_tgt_path'}),
    'musar-gen': Preset('*.parquet', {'reference': ('cond_img_0', 'cond_img_1'),
                                      'instruction': 'prompt', 'target': 'tgt_img'}),
    'x2i-subject-driven': Preset('*.jsonl', {
        'reference': 'input_images', 'instruction': 'instruction', 'target': 'output_image'},
        roots=('', 'retrieval')),
    # Interleaved and conversations
    'comm': Preset('*.pt', {'id': 'data_id', 'instruction': 'title', 'images': 'step_info'},
                   build=documents.steps, roots=('images',), urls='step_info'),
    'mmc4': Preset('*.jsonl', {'caption': 'text_list', 'images': 'image_info'},
                   build=documents.matched, roots=('images', ''), urls='image_info'),
    'obelics': Preset('*.parquet', {'caption': 'texts', 'images': 'images'},
                      build=documents.aligned, urls='images'),
    'omnicorpus-cc': Preset('*.parquet', {'caption': 'texts', 'images': 'images'},
                            build=documents.aligned, urls='images'),
    'zebra-cot': Preset('*.parquet', {
        'instruction': ('Question', 'Text Reasoning Trace', 'Final Answer'),
        'images': ('problem_image_{n}', 'reasoning_image_{n}')}, build=documents.trace,
        optional=('images',)),
    'llava': Preset('*.json', _LLAVA),
    'llava-onevision': Preset('*.jsonl', _LLAVA),
    'sharegpt4v': Preset('*.json', _LLAVA, roots=('', 'data')),
}
