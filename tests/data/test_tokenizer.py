"""Tokenizers: whole words for captions, the same every time, readable by transformers too."""

import pathlib
import shutil
import subprocess
import sys

import pytest
import tokenizers
from tokenizers import models
from tokenizers import pre_tokenizers
from tokenizers import processors
from tokenizers import trainers

from jaxgen.core.errors import UserError
from jaxgen.data.commands import tokenizer_texts
from jaxgen.data.shapes import geneval
from jaxgen.data.tokenizer import END
from jaxgen.data.tokenizer import load_tokenizer
from jaxgen.data.tokenizer import SPECIALS
from jaxgen.data.tokenizer import Tokenizer
from jaxgen.data.tokenizer import train_tokenizer


def test_every_word_of_the_captions_is_one_token(tokenizer):
  words = sorted({word for caption in geneval.captions() for word in caption.split()})
  assert {word: len(tokenizer.encode(f' {word}')) for word in words} == dict.fromkeys(words, 1)


def test_any_text_survives(tokenizer):
  for text in ('a photo of a red circle', 'Ünïcode 字 🙂', '  spaces\n\tand more '):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_ids_are_known_and_are_not_decoded(tokenizer):
  ids = [tokenizer.backend.token_to_id(name) for name in SPECIALS]
  assert ids == [tokenizer.pad, ids[1], tokenizer.end, tokenizer.image_start, tokenizer.image_end,
                 tokenizer.image]
  assert len(set(ids)) == 6
  assert tokenizer.decode([tokenizer.end, tokenizer.pad]) == ''


def test_specials_that_a_text_spells_are_text(tokenizer):
  special = {tokenizer.backend.token_to_id(name) for name in SPECIALS}
  for name in SPECIALS:
    for text in (name, f'a {name} cat', name + name, f'  {name}\n'):
      ids = tokenizer.encode(text)
      assert not special & set(ids) and tokenizer.decode(ids) == text
      assert special & set(tokenizer.backend.encode(text).ids)


def test_ordinary_texts_have_the_ids_of_the_whole_tokenizer(tokenizer):
  for text in ('a photo of a red circle', 'Ünïcode 字 🙂', '  spaces\n\n\tand more ', '', '<im>|<'):
    ids, starts = tokenizer.encode_with_starts(text)
    assert ids == tokenizer.encode(text)
    assert ids == tokenizer.backend.encode(text, add_special_tokens=False).ids
    assert len(starts) == len(ids) and starts == sorted(starts)


def lookup_tokenizer(model):
  """A tokenizer whose model holds its special tokens as whole pieces, as T5's does."""
  backend = tokenizers.Tokenizer(model)
  backend.pre_tokenizer = (pre_tokenizers.WhitespaceSplit() if isinstance(model, models.BPE)
                           else pre_tokenizers.Metaspace())
  backend.add_special_tokens(['</s>', '<pad>'])
  backend.post_processor = processors.TemplateProcessing(
      single='$A </s>', special_tokens=[('</s>', 1)])
  return Tokenizer(backend, 0, None, None, None, None)


@pytest.mark.parametrize('model', [
    models.Unigram([('<pad>', 0.0), ('</s>', 0.0), ('<unk>', 0.0), ('\u2581a', -1.0), ('s', -2.0),
                    ('<', -2.0), ('/', -2.0), ('>', -2.0), ('\u2581', -3.0)], unk_id=2),
    models.WordLevel({'<pad>': 0, '</s>': 1, '<unk>': 2, '\u2581a': 3}, unk_token='<unk>'),
    models.BPE({'<pad>': 0, '</s>': 1, '<unk>': 2, 'a': 3}, [], ignore_merges=True,
               unk_token='<unk>')])
def test_pieces_that_are_looked_up_whole_are_text_too(model):
  tokenizer = lookup_tokenizer(model)
  assert tokenizer.encode('a') == [3]
  assert not {0, 1} & set(tokenizer.encode('a </s> <pad></s>a'))
  assert tokenizer.ends == ([], [1])


def qwen_folder(path, *names):
  """A tokenizer with some of Qwen's names."""
  backend = tokenizers.Tokenizer(models.BPE())
  backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  trainer = trainers.BpeTrainer(initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
                                show_progress=False)
  backend.train_from_iterator([], trainer)
  backend.add_special_tokens(['<|endoftext|>', *names])
  backend.save(str(path / 'tokenizer.json'))
  (path / 'tokenizer_config.json').write_text(
      '{"pad_token": "<|endoftext|>", "eos_token": {"content": "<|endoftext|>"}}')
  return str(path)


def test_names_of_qwen(tmp_path):
  names = ['<|im_start|>', END, '<|vision_start|>', '<|vision_end|>', '<|image_pad|>']
  tokenizer = load_tokenizer(qwen_folder(tmp_path, *names))
  assert (tokenizer.pad, tokenizer.end) == (256, 258)
  assert (tokenizer.image_start, tokenizer.image_end, tokenizer.image) == (259, 260, 261)
  # InternVL's vocabulary is Qwen's and its own names behind.
  tokenizer = load_tokenizer(qwen_folder(tmp_path, *names, '<img>', '</img>', '<IMG_CONTEXT>'))
  assert (tokenizer.image_start, tokenizer.image_end, tokenizer.image) == (262, 263, 264)


def test_text_only_tokenizers(tmp_path):
  path = qwen_folder(tmp_path)
  with pytest.raises(UserError, match='lacks <|im_end|>, or the tokens for images'):
    load_tokenizer(path)
  tokenizer = load_tokenizer(path, images=False)
  assert tokenizer.image is tokenizer.image_start is tokenizer.image_end is None
  assert tokenizer.pad == tokenizer.end == 256
  assert tokenizer.ends == ([], [])


def test_training_is_deterministic(tokenizer_folder, tmp_path):
  train_tokenizer(tokenizer_texts(geneval.captions()), 512, str(tmp_path))
  again, first = (pathlib.Path(path) / 'tokenizer.json' for path in (tmp_path, tokenizer_folder))
  assert again.read_bytes() == first.read_bytes()


def test_transformers_reads_the_folder(tokenizer, tokenizer_folder):
  from transformers import AutoTokenizer
  theirs = AutoTokenizer.from_pretrained(tokenizer_folder)
  text = 'Generate an image: a photo of two crosses'
  assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text)
  assert (theirs.pad_token_id, theirs.eos_token_id) == (tokenizer.pad, tokenizer.end)


def test_loading_needs_no_framework(tokenizer_folder):
  code = ('import sys; from jaxgen.data.tokenizer import load_tokenizer; '
          f'load_tokenizer({tokenizer_folder!r}); '
          'print({"torch", "tensorflow", "transformers"} & sys.modules.keys())')
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  assert done.stdout.strip() == 'set()'


@pytest.mark.parametrize('path', ['runs/tok', './tok', '/none/tok', 'tok', 'a/b/c', '~/tok',
                                  'tests/tok', '../a', 'a/../b', ''])
def test_what_looks_like_a_path_is_never_asked_for_on_the_hub(path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'huggingface_hub', None)  # importing it would fail
  with pytest.raises(UserError, match='no such folder' if path else 'holds no tokenizer'):
    load_tokenizer(path)


@pytest.mark.parametrize('file', ['tokenizer.json', 'tokenizer_config.json'])
@pytest.mark.parametrize('text', ['', '{"version": "1.0", "mod', '[]', '\xff'])
def test_damaged_files_are_named(tokenizer_folder, tmp_path, file, text):
  shutil.copytree(tokenizer_folder, tmp_path / 'tok')
  (tmp_path / 'tok' / file).write_text(text, 'latin-1')
  with pytest.raises(UserError, match=f'tok/{file}: damaged .*copy it again') as error:
    load_tokenizer(str(tmp_path / 'tok'))
  assert '\n' not in str(error.value)


def test_settings_of_other_kinds_name_no_tokens(tokenizer_folder, tmp_path):
  (tmp_path / 'tokenizer.json').write_bytes(
      (pathlib.Path(tokenizer_folder) / 'tokenizer.json').read_bytes())
  (tmp_path / 'tokenizer_config.json').write_text('{"pad_token": 7, "eos_token": {"id": 3}}')
  tokenizer = load_tokenizer(str(tmp_path))
  assert (tokenizer.pad, tokenizer.end) == (0, 2)


def test_bad_tokenizers(tmp_path):
  with pytest.raises(UserError, match='config.data.tokenizer.*no tokenizer.json'):
    load_tokenizer(str(tmp_path))
  with pytest.raises(UserError, match="config.data.tokenizer = 'no/such'.*can be reached"):
    load_tokenizer('no/such')
  tokenizers.Tokenizer(models.BPE()).save(str(tmp_path / 'tokenizer.json'))
  with pytest.raises(UserError, match='lacks .*tokens for images .<img>, <IMG_CONTEXT>, </img> or'):
    load_tokenizer(str(tmp_path))
  with pytest.raises(UserError, match='--vocab = 100'):
    train_tokenizer(['a'], 100, str(tmp_path))
