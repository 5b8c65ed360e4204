"""Tokenizers: one thin class over the ``tokenizers`` library, loading, and training a small one."""

import dataclasses
import functools
import json
from collections.abc import Iterable
from collections.abc import Sequence

import tokenizers
from etils import epath
from tokenizers import decoders
from tokenizers import models
from tokenizers import pre_tokenizers
from tokenizers import trainers

from jaxgen.core.errors import UserError
from jaxgen.core.errors import user_error
from jaxgen.core.files import is_hub_id
from jaxgen.core.files import one_line
from jaxgen.core.files import read_json
from jaxgen.core.files import write_bytes
from jaxgen.core.files import write_text

PAD, UNKNOWN, END = '<pad>', '<unk>', '<|im_end|>'
IMAGE_START, IMAGE_END, IMAGE = '<img>', '</img>', '<IMG_CONTEXT>'
SPECIALS = (PAD, UNKNOWN, END, IMAGE_START, IMAGE_END, IMAGE)
# What stands before an image, for each of its tokens, and behind it. InternVL's vocabulary has
# Qwen's names too, so its own come first.
IMAGE_NAMES = ((IMAGE_START, IMAGE, IMAGE_END),
               ('<|vision_start|>', '<|image_pad|>', '<|vision_end|>'))
FILE, SETTINGS = 'tokenizer.json', 'tokenizer_config.json'
PARTS = ('vocab.json', 'spiece.model', 'tokenizer.model')


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """Text to ids and back, with the special ids that prompts need.

  Attributes:
    backend: the tokenizer of the folder, which also reads special tokens that a text spells.
    pad: id that fills rows.
    end: id that closes what the model says; None where the vocabulary names none.
    image_start, image, image_end: ids of an image in a prompt; None for a text-only model.
    bov: id with which the assistant begins an image, <BOV> (A20).
  """

  backend: tokenizers.Tokenizer
  pad: int
  end: int | None
  image_start: int | None
  image: int | None
  image_end: int | None
  bov: int | None = None

  @property
  def vocab_size(self) -> int:
    """Ids in use, special ones included; a model's embedding may be longer."""
    return self.backend.get_vocab_size(with_added_tokens=True)

  def encode(self, text: str) -> list[int]:
    """Ids of the text, with nothing added at its ends; a special token that it spells is text."""
    return self._text.encode(text, add_special_tokens=False).ids

  def encode_with_starts(self, text: str) -> tuple[list[int], list[int]]:
    """As ``encode``, and the index of the character at which each token starts."""
    encoded = self._text.encode(text, add_special_tokens=False)
    return encoded.ids, [start for start, _ in encoded.offsets]

  def decode(self, ids: Sequence[int]) -> str:
    """The text of the ids, special ones left out."""
    return self.backend.decode(list(ids), skip_special_tokens=True)

  @functools.cached_property
  def ends(self) -> tuple[list[int], list[int]]:
    """Ids that the tokenizer puts before and behind a text on its own, for text towers."""
    encoded = self._text.encode('a')
    inside = [index for index, added in enumerate(encoded.special_tokens_mask) if not added]
    return encoded.ids[:inside[0]], encoded.ids[inside[-1] + 1:]

  @functools.cached_property
  def _text(self) -> tokenizers.Tokenizer:
    """The tokenizer without its added tokens: no text can spell them."""
    spec = json.loads(self.backend.to_str())
    added = {token['content'] for token in spec['added_tokens']}
    spec['added_tokens'] = []
    model = spec['model']
    # BPE reaches a token by merges, and no merge gives a special one. Models that look whole pieces
    # up get names with a space there, which no piece of a text contains.
    if model['type'] == 'Unigram':
      model['vocab'] = [[f' {piece}' if piece in added else piece, score]
                        for piece, score in model['vocab']]
    elif model['type'] != 'BPE' or model.get('ignore_merges'):
      added.discard(model['unk_token'])
      model['vocab'] = {f' {piece}' if piece in added else piece: index
                        for piece, index in model['vocab'].items()}
    return tokenizers.Tokenizer.from_str(json.dumps(spec))


def load_tokenizer(path: str, field: str = 'config.data.tokenizer', *,
                   images: bool = True, bov: str = '') -> Tokenizer:
  """Loads the tokenizer of a Hugging Face folder or hub id; needs its ``tokenizer.json`` only.

  Args:
    path: folder, or hub id.
    field: config field that holds the path, for errors.
    images: prompts contain images, and answers end. False for text towers.
    bov: token that begins an image of the assistant, added behind the others where the tokenizer
      lacks it; '' = the one that begins any image.

  Raises:
    UserError: nothing there, or with ``images`` a tokenizer without the tokens for images and for
      the end of an answer.
  """
  backend, settings = open_tokenizer(path, field)
  if bov:
    backend.add_special_tokens([bov])
  end = _first_id(backend, END, _named(settings, 'eos_token'))
  pad = _first_id(backend, _named(settings, 'pad_token') or PAD)
  image = _image_ids(backend)
  if images and None in (end, *image):
    names = ' or '.join(', '.join(kind) for kind in IMAGE_NAMES)
    raise user_error(field, path, f'the tokenizer lacks {END}, or the tokens for images ({names}); '
                     'use an InternVL or Qwen-VL tokenizer or train one with '
                     '`jaxgen data tokenizer`')
  if pad is None:
    pad = 0 if end is None else end
  return Tokenizer(backend, pad, end, *image, backend.token_to_id(bov) if bov else image[0])


def _image_ids(backend: tokenizers.Tokenizer) -> tuple[int | None, ...]:
  for names in IMAGE_NAMES:
    ids = tuple(backend.token_to_id(name) for name in names)
    if None not in ids:
      return ids
  return (None, None, None)


def _named(settings: dict[str, object], key: str) -> str | None:
  """The spelling of a special token, which the settings hold plainly or as an object."""
  value = settings.get(key)
  value = value.get('content') if isinstance(value, dict) else value
  return value if isinstance(value, str) else None


def _first_id(backend: tokenizers.Tokenizer, *names: str | None) -> int | None:
  ids = (backend.token_to_id(name) for name in names if name)
  return next((index for index in ids if index is not None), None)


def open_tokenizer(path: str, field: str) -> tuple[tokenizers.Tokenizer, dict[str, object]]:
  """The tokenizer of a folder or hub id, which neither cuts nor pads, and its settings.

  Raises:
    UserError: nothing there, which names ``field``, or a damaged file, which is named itself.
  """
  file, *settings = _find(path, field)
  fix = 'copy it again'
  try:
    backend = tokenizers.Tokenizer.from_str(_spec(file))
  except UserError:
    raise
  except Exception as error:  # the library raises no narrower class
    raise user_error(str(file), None, f'damaged ({one_line(error)}); {fix}') from error
  backend.no_padding()
  backend.no_truncation()
  return backend, read_json(settings[0], fix) if settings else {}


def identity(path: str, field: str) -> tuple[object, ...]:
  """What two tokenizers have in common if and only if they give the same ids."""
  backend, settings = open_tokenizer(path, field)
  return backend.to_str(), _named(settings, 'pad_token'), _named(settings, 'eos_token')


def has_tokenizer(folder: epath.Path) -> bool:
  """Whether the folder holds a tokenizer."""
  return (folder / FILE).exists()


def copy_tokenizer(path: str, folder: epath.Path, field: str) -> None:
  """Copies the files that ``load_tokenizer`` reads from a folder or hub id.

  Raises:
    UserError: nothing there, a damaged file, or the folder cannot be written.
  """
  open_tokenizer(path, field)
  file, *settings = _find(path, field)
  for other in settings:  # first: a folder with a tokenizer.json is whole
    write_bytes(folder / other.name, other.read_bytes())
  write_bytes(folder / FILE, _spec(file).encode())


def _spec(file: epath.Path) -> str:
  """The text of a tokenizer.json, or what transformers makes of a folder that has its parts."""
  if file.exists():
    return file.read_text()
  import transformers  # slow to import
  try:
    made = transformers.AutoTokenizer.from_pretrained(str(file.parent), local_files_only=True)
    return made.backend_tokenizer.to_str()
  except Exception as error:  # every class has errors of its own
    raise user_error(str(file.parent), None, 'holds parts of a tokenizer of which transformers '
                     f'makes none ({one_line(error)}); save a fast one there') from error


def _find(path: str, field: str) -> list[epath.Path]:
  """The tokenizer.json of a folder or hub id, and its settings where there are any.

  A folder of a release may hold its parts alone, of which ``_spec`` makes it.
  """
  folder = epath.Path(path)
  if folder.exists():
    if not has_tokenizer(folder):
      if any((folder / name).exists() for name in PARTS):
        return [folder / name for name in (FILE, SETTINGS)
                if name == FILE or (folder / name).exists()]
      raise user_error(field, path, 'holds no tokenizer.json; save a fast tokenizer there '
                       '(AutoTokenizer.from_pretrained(...).save_pretrained(...)), or train one '
                       'with `jaxgen data tokenizer`')
    return [folder / name for name in (FILE, SETTINGS) if (folder / name).exists()]
  if not is_hub_id(path):
    raise user_error(field, path, 'no such folder; `jaxgen data tokenizer` trains a tokenizer, and '
                     'one of the Hugging Face hub is named owner/name')
  # Imported here: only hub ids need it, and it takes a while.
  import huggingface_hub
  from huggingface_hub import errors
  try:
    return [epath.Path(huggingface_hub.hf_hub_download(path, name)) for name in (FILE, SETTINGS)]
  except (errors.HfHubHTTPError, errors.HFValidationError, errors.LocalEntryNotFoundError,
          OSError) as error:
    raise user_error(field, path, 'neither a folder nor a hub id that can be reached '
                     f'({type(error).__name__}); `jaxgen data tokenizer` trains one') from error


def train_tokenizer(texts: Iterable[str], vocab_size: int, folder: str) -> Tokenizer:
  """Makes a byte-level vocabulary, saved where ``load_tokenizer`` and transformers can read it.

  Args:
    texts: what to learn from; the fixed prompt templates belong here too.
    vocab_size: ids in all: the special ones, 256 bytes, then the words of the texts where all of
      them fit, otherwise BPE's merges, as many as the texts give.
    folder: where to write; made if absent.

  Raises:
    UserError: a vocabulary too small for the bytes.
  """
  least = 256 + len(SPECIALS)
  if vocab_size < least:
    raise user_error('--vocab', vocab_size,
                     f'use {least} or more: 256 bytes and the special tokens')
  texts = list(texts)
  splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
  letters = sorted(splitter.alphabet())
  words = {word for text in set(texts) for word, _ in splitter.pre_tokenize_str(text)}
  tokens = [*SPECIALS, *letters, *sorted(words.difference(letters))]
  if len(tokens) <= vocab_size:
    backend = _whole_words(tokens)
    backend.pre_tokenizer = splitter
  else:
    backend = tokenizers.Tokenizer(models.BPE(unk_token=UNKNOWN))
    backend.pre_tokenizer = splitter  # the trainer reads it
    backend.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIALS), show_progress=False,
        initial_alphabet=letters))
  backend.decoder = decoders.ByteLevel()
  out = epath.Path(folder)
  write_text(out / SETTINGS, json.dumps({
      'tokenizer_class': 'PreTrainedTokenizerFast', 'pad_token': PAD, 'unk_token': UNKNOWN,
      'eos_token': END, 'additional_special_tokens': [IMAGE_START, IMAGE_END, IMAGE],
  }, indent=2))
  write_text(out / FILE, backend.to_str(pretty=True))
  return load_tokenizer(folder)


def _whole_words(tokens: Sequence[str]) -> tokenizers.Tokenizer:
  """A model whose tokens are all its words, numbered in their order, so that none is merged.

  Merges spend ids on parts of words: 512 of them left a third of the drawn world's words in pieces.
  """
  backend = tokenizers.Tokenizer(models.BPE(
      vocab={token: index for index, token in enumerate(tokens)}, merges=[], unk_token=UNKNOWN,
      ignore_merges=True))
  backend.add_special_tokens(list(SPECIALS))
  return backend
