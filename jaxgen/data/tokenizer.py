"""Tokenizers: one thin class over the ``tokenizers`` library, loading, and training a small one."""

import dataclasses
import json
from collections.abc import Iterable
from collections.abc import Sequence

import tokenizers
from etils import epath
from tokenizers import decoders
from tokenizers import models
from tokenizers import pre_tokenizers
from tokenizers import trainers

from jaxgen.core.errors import user_error

# InternVL's names: an image in the prompt is <img>, one <IMG_CONTEXT> per image token, </img>.
PAD, UNKNOWN, END = '<pad>', '<unk>', '<|im_end|>'
IMAGE_START, IMAGE_END, IMAGE = '<img>', '</img>', '<IMG_CONTEXT>'
SPECIALS = (PAD, UNKNOWN, END, IMAGE_START, IMAGE_END, IMAGE)


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """Text to ids and back, with the special ids that prompts need.

  Attributes:
    backend: does the work.
    pad: id that fills rows.
    end: id that closes what the model says.
    image_start, image, image_end: ids of an image in a prompt.
  """

  backend: tokenizers.Tokenizer
  pad: int
  end: int
  image_start: int
  image: int
  image_end: int

  @property
  def vocab_size(self) -> int:
    """Ids in use, special ones included; a model's embedding may be longer."""
    return self.backend.get_vocab_size(with_added_tokens=True)

  def encode(self, text: str) -> list[int]:
    """Ids of the text, with nothing added at its ends."""
    return self.backend.encode(text, add_special_tokens=False).ids

  def decode(self, ids: Sequence[int]) -> str:
    """The text of the ids, special ones left out."""
    return self.backend.decode(list(ids), skip_special_tokens=True)


def load_tokenizer(path: str, field: str = 'config.data.tokenizer') -> Tokenizer:
  """Loads the tokenizer of a Hugging Face folder or hub id; needs its ``tokenizer.json`` only.

  Args:
    path: folder, or hub id.
    field: config field that holds the path, for errors.

  Raises:
    UserError: nothing there, or a tokenizer without the tokens that stand for images.
  """
  backend, settings = open_tokenizer(path, field)
  ids = {name: backend.token_to_id(name) for name in (END, IMAGE_START, IMAGE, IMAGE_END)}
  missing = sorted(name for name, index in ids.items() if index is None)
  if missing:
    raise user_error(field, path, f'the tokenizer lacks {", ".join(missing)}; use an InternVL '
                     'tokenizer or train one with `jaxgen data tokenizer`')
  pad = settings.get('pad_token') or PAD
  pad = backend.token_to_id(pad['content'] if isinstance(pad, dict) else pad)
  return Tokenizer(backend, ids[END] if pad is None else pad, ids[END],
                   ids[IMAGE_START], ids[IMAGE], ids[IMAGE_END])


def open_tokenizer(path: str, field: str) -> tuple[tokenizers.Tokenizer, dict[str, object]]:
  """The tokenizer of a folder or hub id, which neither cuts nor pads, and its settings.

  Raises:
    UserError: nothing there; it names ``field``.
  """
  file, settings = _find(path, field)
  backend = tokenizers.Tokenizer.from_file(file)
  backend.no_padding()
  backend.no_truncation()
  return backend, settings


def _find(path: str, field: str) -> tuple[str, dict[str, object]]:
  """The local tokenizer.json of a folder or hub id, and its settings."""
  folder = epath.Path(path)
  if folder.exists():
    file, settings = folder / 'tokenizer.json', folder / 'tokenizer_config.json'
    if not file.exists():
      raise user_error(field, path, 'holds no tokenizer.json; save a fast tokenizer there '
                       '(AutoTokenizer.from_pretrained(...).save_pretrained(...)), or train one '
                       'with `jaxgen data tokenizer`')
    return str(file), json.loads(settings.read_text()) if settings.exists() else {}
  # Imported here: only hub ids need it, and it takes a while.
  import huggingface_hub
  from huggingface_hub import errors
  try:
    file = huggingface_hub.hf_hub_download(path, 'tokenizer.json')
    with open(huggingface_hub.hf_hub_download(path, 'tokenizer_config.json')) as settings:
      return file, json.load(settings)
  except (errors.HfHubHTTPError, errors.HFValidationError, errors.LocalEntryNotFoundError,
          OSError) as error:
    raise user_error(field, path, 'neither a folder nor a hub id that can be reached '
                     f'({type(error).__name__}); `jaxgen data tokenizer` trains one') from error


def train_tokenizer(texts: Iterable[str], vocab_size: int, folder: str) -> Tokenizer:
  """Trains byte-level BPE and saves it where ``load_tokenizer`` and transformers can read it.

  Args:
    texts: what to learn from; the fixed prompt templates belong here too.
    vocab_size: ids in all: the special ones, 256 bytes, then merges, as many as the texts give.
    folder: where to write; made if absent.

  Raises:
    UserError: a vocabulary too small for the bytes.
  """
  least = 256 + len(SPECIALS)
  if vocab_size < least:
    raise user_error('--vocab', vocab_size,
                     f'use {least} or more: 256 bytes and the special tokens')
  backend = tokenizers.Tokenizer(models.BPE(unk_token=UNKNOWN))
  backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  backend.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
      vocab_size=vocab_size, special_tokens=list(SPECIALS), show_progress=False,
      initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
  backend.train_from_iterator(texts, trainer)
  out = epath.Path(folder)
  out.mkdir(parents=True, exist_ok=True)
  (out / 'tokenizer.json').write_text(backend.to_str(pretty=True))
  (out / 'tokenizer_config.json').write_text(json.dumps({
      'tokenizer_class': 'PreTrainedTokenizerFast', 'pad_token': PAD, 'unk_token': UNKNOWN,
      'eos_token': END, 'additional_special_tokens': [IMAGE_START, IMAGE_END, IMAGE],
  }, indent=2))
  return load_tokenizer(folder)
