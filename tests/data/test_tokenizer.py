"""Tokenizers: whole words for captions, the same every time, readable by transformers too."""

import pathlib
import subprocess
import sys

import pytest

from jaxgen.core.errors import UserError
from jaxgen.data import shapes
from jaxgen.data.commands import tokenizer_texts
from jaxgen.data.tokenizer import IMAGE
from jaxgen.data.tokenizer import SPECIALS
from jaxgen.data.tokenizer import load_tokenizer
from jaxgen.data.tokenizer import train_tokenizer


def test_every_word_of_the_captions_is_one_token(tokenizer):
  words = sorted({word for caption in shapes.captions() for word in caption.split()})
  assert {word: len(tokenizer.encode(f' {word}')) for word in words} == dict.fromkeys(words, 1)


def test_any_text_survives(tokenizer):
  for text in ('a photo of a red circle', 'Ünïcode 字 🙂', '  spaces\n\tand more '):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_specials_are_single_tokens_and_are_not_decoded(tokenizer):
  for name in SPECIALS:
    assert len(tokenizer.encode(name)) == 1
  assert tokenizer.encode(IMAGE) == [tokenizer.image]
  assert tokenizer.decode([tokenizer.end, tokenizer.pad]) == ''
  assert len({tokenizer.pad, tokenizer.end, tokenizer.image_start, tokenizer.image,
              tokenizer.image_end}) == 5


def test_training_is_deterministic(tokenizer_folder, tmp_path):
  train_tokenizer(tokenizer_texts(shapes.captions()), 512, str(tmp_path))
  again, first = (pathlib.Path(path) / 'tokenizer.json' for path in (tmp_path, tokenizer_folder))
  assert again.read_bytes() == first.read_bytes()


def test_transformers_reads_the_folder(tokenizer, tokenizer_folder):
  from transformers import AutoTokenizer
  theirs = AutoTokenizer.from_pretrained(tokenizer_folder)
  text = 'Generate an image: a photo of two crosses<|im_end|>'
  assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text)
  assert (theirs.pad_token_id, theirs.eos_token_id) == (tokenizer.pad, tokenizer.end)


def test_loading_needs_no_framework(tokenizer_folder):
  code = ('import sys; from jaxgen.data.tokenizer import load_tokenizer; '
          f'load_tokenizer({tokenizer_folder!r}); '
          'print({"torch", "tensorflow", "transformers"} & sys.modules.keys())')
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  assert done.stdout.strip() == 'set()'


def test_bad_tokenizers(tmp_path):
  with pytest.raises(UserError, match='config.data.tokenizer.*no tokenizer.json'):
    load_tokenizer(str(tmp_path))
  with pytest.raises(UserError, match="config.data.tokenizer = 'no/such'"):
    load_tokenizer('no/such')
  import tokenizers
  tokenizers.Tokenizer(tokenizers.models.BPE()).save(str(tmp_path / 'tokenizer.json'))
  with pytest.raises(UserError, match='lacks </img>, <IMG_CONTEXT>, <img>'):
    load_tokenizer(str(tmp_path))
  with pytest.raises(UserError, match='--vocab = 100'):
    train_tokenizer(['a'], 100, str(tmp_path))
