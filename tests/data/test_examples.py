"""Examples of a source: broken records and missing captions are counted and named, never hidden;
several images in a sample; requests and training samples alike."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from jaxgen.config import source
from jaxgen.core.errors import UserError
from jaxgen.core.types import Latent
from jaxgen.core.types import Layout
from jaxgen.core.types import Vision
from jaxgen.data import sequences
from jaxgen.data import tasks
from jaxgen.data.examples import ExampleMaker
from jaxgen.data.loader import make_loader
from jaxgen.data.sample import FileImage
from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample
from jaxgen.data.sequences import open_sequences
from jaxgen.data.tokenizer import SPECIALS


@pytest.fixture
def spoil(folder, tmp_path):
  """Copies the 20 samples, cutting some files short."""
  def make(bad):
    for index in range(20):
      data = (folder / f'{index:02d}.png').read_bytes()
      (tmp_path / f'{index:02d}.png').write_bytes(data[:90] if index in bad else data)
    return tmp_path
  return make


def list_of(path, *records):
  path.write_text('\n'.join(json.dumps(record) for record in records))
  return str(path)


def test_broken_file_is_skipped_named_and_replaced(spoil, make_config, layout, caplog):
  path = spoil({3})
  config = make_config({'a': source('folder', 'image', path=str(path))}, max_bad_share=0.1)
  for _ in range(2):  # the same every time
    loader = make_loader(config, layout)
    names = [name for _ in range(15) for (name,) in next(loader).ids]
    skipped = loader.report()['skipped']
    loader.close()
    assert len(names) == 60
    assert set(names) == {f'{index:02d}.png' for index in range(20) if index != 3}
    assert list(skipped) == [str(path / '03.png')]
  assert sum('03.png' in record.message for record in caplog.records) == 2  # once for each loader


def test_skipping_survives_a_resume(spoil, make_config, layout):
  config = make_config({'a': source('folder', 'image', path=str(spoil({3, 8})))}, max_bad_share=0.2)
  straight = make_loader(config, layout)
  ids = [next(straight).ids for _ in range(12)]
  straight.close()
  for step in (3, 6):
    first, second = make_loader(config, layout), make_loader(config, layout)
    for _ in range(step):
      next(first)
    second.restore(first.state(), step)
    assert [next(second).ids for _ in range(12 - step)] == ids[step:]
    first.close()
    second.close()


def test_too_many_broken_files_stop_the_run(spoil, make_config, layout):
  config = make_config({'a': source('folder', 'image', path=str(spoil({3, 4, 5})))},
                       max_bad_share=0.1)
  loader = make_loader(config, layout)
  with pytest.raises(UserError, match=r'^config.data.sources.a.path: 3 of 20 records cannot be '
                                      r'used, .*bad_share = 0.1 .*: .*0[345]\.png') as caught:
    for _ in range(10):
      next(loader)
  assert '\n' not in str(caught.value)
  loader.close()


def test_nothing_but_broken_files(spoil, make_config, layout):
  config = make_config({'a': source('folder', 'image', path=str(spoil(set(range(20)))))},
                       max_bad_share=1.0)
  loader = make_loader(config, layout)
  with pytest.raises(UserError, match='20 of 20 records cannot be used'):
    next(loader)
  loader.close()


def test_a_file_that_vanishes_counts_as_broken(folder, tmp_path, make_config, layout):
  (tmp_path / 'gone.png').write_bytes((folder / '01.png').read_bytes())
  path = list_of(tmp_path / 'list.jsonl', {'file': str(folder / '00.png'), 'id': 'kept'},
                 {'file': 'gone.png'})
  loader = make_loader(make_config({'a': source('jsonl', 'image', path=path)}, max_bad_share=0.6),
                       layout)
  (tmp_path / 'gone.png').unlink()
  assert {name for _ in range(3) for (name,) in next(loader).ids} == {'kept'}
  assert loader.report()['skipped'] == {f'{path}:2': 'no such file'}
  loader.close()


def test_faults_of_captions_are_skipped_named_and_resumed_over(folder, tmp_path, make_config,
                                                               layout, caplog):
  """One too long, one in another encoding, one empty, one that only some visits draw."""
  for index in range(20):
    (tmp_path / f'{index:02d}.png').write_bytes((folder / f'{index:02d}.png').read_bytes())
    (tmp_path / f'{index:02d}.txt').write_text(f'a circle {index}')
  (tmp_path / '03.txt').write_text('word ' * 99)
  (tmp_path / '08.txt').write_bytes(b'caf\xe9')
  (tmp_path / '11.txt').write_text('\n')
  (tmp_path / 'captions.json').write_text(json.dumps({'15.png': ['a circle', 'word ' * 99]}))
  config = make_config({'a': source('folder', 'pair', path=str(tmp_path))}, max_bad_share=0.2)
  straight = make_loader(config, layout)
  ids = [next(straight).ids for _ in range(24)]
  assert {name for batch in ids for (name,) in batch} == {
      f'{index:02d}.png' for index in range(20)} - {'03.png', '08.png', '11.png'}
  skipped = straight.report()['skipped']
  straight.close()
  assert sorted(skipped) == [f'{tmp_path}/{name}' for name in (
      '03.png: caption', '08.txt', '11.png: caption', '15.png: caption')]
  assert sum('skipped' in record.getMessage() for record in caplog.records) == 4
  for step in (5, 11):
    first, second = make_loader(config, layout), make_loader(config, layout)
    for _ in range(step):
      next(first)
    second.restore(first.state(), step)
    assert [next(second).ids for _ in range(24 - step)] == ids[step:]
    first.close()
    second.close()


@pytest.mark.parametrize('task', ['pair', 'caption'])
@pytest.mark.parametrize('caption', [None, '  '])
def test_missing_caption_names_file_and_line(task, caption, folder, tmp_path, make_config, layout):
  (tmp_path / '00.png').write_bytes((folder / '00.png').read_bytes())
  path = tmp_path / 'list.jsonl'
  path.write_text('\n' + json.dumps({'file': '00.png', 'caption': caption}))
  loader = make_loader(make_config({'a': source('jsonl', task, path=str(path))}), layout)
  with pytest.raises(UserError, match=rf'1 of 1 records .*: {path}:2: caption \(missing'):
    next(loader)
  loader.close()


def test_long_caption_names_file_and_line(folder, tmp_path, make_config, layout):
  path = list_of(tmp_path / 'list.jsonl',
                 {'file': str(folder / '00.png'), 'caption': 'word ' * 99})
  loader = make_loader(make_config({'a': source('jsonl', 'pair', path=path)}), layout)
  with pytest.raises(UserError, match=rf'1 of 1 records .*: {path}:1: caption \(the prompt has \d+ '
                                      r'tokens, more than config.data.prompt_tokens = 40; shorten'):
    next(loader)
  loader.close()


def test_a_sample_too_large_for_a_row_names_the_field_to_raise(folder, tmp_path, make_config,
                                                               layout):
  edit = [{'image': str(folder / f'{index:02d}.png'), 'role': role}
          for index, role in enumerate(('source', 'reference', 'target'))]
  path = list_of(tmp_path / 'list.jsonl',
                 {'id': 'edit', 'parts': [*edit, {'text': 'a', 'role': 'user'}]})
  loader = make_loader(make_config({'a': source('jsonl', 'edit', path=path)}, patches=4), layout)
  with pytest.raises(UserError, match='^sample edit: has 8 patches, but a row holds 4; raise '
                                      'config.data.patches'):
    next(loader)
  loader.close()


def test_a_task_that_does_not_fit_names_the_record(folder, tmp_path, make_config, layout):
  path = list_of(tmp_path / 'list.jsonl', {'id': 'two', 'parts': [
      {'image': str(folder / '00.png'), 'role': 'target'}] * 2})
  loader = make_loader(make_config({'a': source('jsonl', 'image', path=path)}), layout)
  with pytest.raises(UserError, match=rf'1 of 1 records .*: {path}:1 \(2: task image takes samples of'):
    next(loader)
  loader.close()


# Of several images.


SEEING = Layout(latent=Latent(4, 48), vision=Vision('square', patch=4, merge=1, size=8), queries=3,
                scheme='flux')


@pytest.fixture
def maker(make_config):
  return ExampleMaker.of(make_config({}, clean_roles=('source', 'reference')), SEEING)


def edit_of(folder, *names, size=None):
  """Source, references, instruction and target; with a size, the request for the same."""
  given = [Part('source' if not index else 'reference', image=FileImage(str(folder / name)))
           for index, name in enumerate(names[:-1])]
  target = Part('target', loss=True, size=size,
                image=None if size else FileImage(str(folder / names[-1])))
  return Sample('edit', (*given, Part('user', text='redder'), target), 'edit')


def test_images_of_a_sample_get_sizes_patches_and_positions(maker, folder):
  example = maker(edit_of(folder, '00.png', '01.png', '02.png'))
  assert [image.is_target for image in example.images] == [False, False, True]
  assert [image.size for image in example.images] == [(16, 16)] * 3
  assert example.patches.values.shape == (8, 48)
  assert example.patches.images.tolist() == [1] * 4 + [2] * 4
  tokens = example.prompt.image_index
  assert tokens[tokens >= 0].tolist() == list(range(8))
  assert example.prompt.query_index.tolist()[-3:] == [0, 1, 2]
  places = np.concatenate([image.positions for image in example.images])
  assert len(np.unique(places, axis=0)) == 48  # no two latent tokens stand in one place


def test_a_request_is_the_training_sample_without_its_target(maker, folder):
  trained = maker(edit_of(folder, '00.png', '02.png'))
  asked = maker(edit_of(folder, '00.png', '02.png', size=(16, 16)))
  assert asked.images[-1].pixels is None and trained.images[-1].pixels is not None
  for name in ('tokens', 'positions', 'shown', 'state_positions', 'image_index'):
    np.testing.assert_array_equal(getattr(asked.prompt, name), getattr(trained.prompt, name))
  for left, right in zip(asked.images, trained.images):
    np.testing.assert_array_equal(left.positions, right.positions)


def test_uses_say_which_images_go_where(maker, folder):
  sample = edit_of(folder, '00.png', '01.png', '02.png')
  assert maker.uses(sample) == ([0, 1], [0, 1, 3])
  assert maker.uses(tasks.dropped(sample, 'vision', '')) == ([], [0, 1, 3])
  assert maker.uses(tasks.dropped(sample, 'latents', '')) == ([0, 1], [3])
  told = dataclasses.replace(sample, task='conversation')
  assert maker.uses(told) == ([0, 1, 3], [])


def test_more_references_than_the_config_allows_are_named(make_config, folder):
  sample = edit_of(folder, '00.png', '01.png', '02.png', '03.png')  # a source and two references
  for limit in (0, 2):
    assert len(ExampleMaker.of(make_config({}, max_references=limit), SEEING)(sample).images) == 1
  with pytest.raises(UserError, match='^edit: references = 2: more than '
                                      'config.data.max_references = 1; give fewer or raise'):
    ExampleMaker.of(make_config({}, max_references=1), SEEING)(sample)


def test_special_tokens_that_a_caption_spells_are_text(folder, tmp_path, make_config, tokenizer):
  special = {tokenizer.backend.token_to_id(name) for name in SPECIALS}
  counts = []
  for text in ('a cat', ' '.join(SPECIALS)):
    path = list_of(tmp_path / 'list.jsonl', {'file': str(folder / '00.png'), 'caption': text})
    config = make_config({'a': source('jsonl', 'pair', path=path)}, prompt_tokens=99)
    (sequence,) = open_sequences(config, ['a'], ExampleMaker.of(config, SEEING))
    tokens = sequence[0].prompt.tokens.tolist()
    counts.append(sum(token in special for token in tokens))
    assert text in tokenizer.decode(tokens)
  assert counts[0] == counts[1]


def test_each_epoch_draws_other_wordings(folder, tmp_path, make_config, tokenizer):
  path = list_of(tmp_path / 'list.jsonl', {'id': 'one', 'parts': [
      {'text': ['a circle', 'a square', 'a cross'], 'role': 'user'},
      {'image': str(folder / '00.png'), 'role': 'target'}]})
  config = make_config({'a': source('jsonl', 'pair', path=path)})
  (sequence,) = open_sequences(config, ['a'], ExampleMaker.of(config, SEEING))
  texts = [tokenizer.decode(sequence[position].prompt.tokens.tolist()) for position in range(6)]
  assert [text.split()[-1] for text in texts] == ['circle', 'square', 'cross'] * 2


def test_a_set_too_large_to_be_kept_gives_the_same_examples(spoil, make_config, layout,
                                                            monkeypatch):
  """Its files are read once for each visit; broken and missing ones are named alike."""
  path = spoil({3})
  config = make_config({'a': source('folder', 'image', path=str(path))}, max_bad_share=0.1)
  found = []
  for records in (20, 0):
    monkeypatch.setattr(sequences, 'KEPT_RECORDS', records)
    loader = make_loader(config, layout)
    batches = [next(loader) for _ in range(12)]
    found.append((batches, loader.report()['skipped']))
    loader.close()
  (kept, skipped), (again, skipped_again) = found
  assert list(skipped) == list(skipped_again) == [str(path / '03.png')]
  for one, other in zip(kept, again, strict=True):
    jax.tree.map(np.testing.assert_array_equal, one.batch, other.batch)
    assert one.ids == other.ids
