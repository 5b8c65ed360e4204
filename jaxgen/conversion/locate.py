"""Resolves a path to a model: a local folder or file, a bucket, or a hub repository."""

import functools
import pathlib
import re
from collections.abc import Sequence

from etils import epath

from jaxgen.conversion.weight_files import ENDINGS
from jaxgen.conversion.weight_files import split_choice
from jaxgen.core.errors import user_error
from jaxgen.core.files import is_hub_id

_HUB = re.compile(r'(?P<repo>[\w.-]+/[\w.-]+)(/(?P<place>[\w./-]+))?(@(?P<revision>[\w./-]+))?')
# Many repositories hold the same weights as .bin too, which is fetched where there is nothing else.
_SOONER = tuple(ending for ending in ENDINGS if ending != '.bin')
# TensorFlow, which etils prefers where it is installed, no longer knows S3, and never knew the hub.
_ADVICE = {'s3': 'pip install s3fs, set EPATH_USE_TF=0', 'hf': 'set EPATH_USE_TF=0'}


def locate(path: str) -> str:
  """A local or bucket path that holds the model.

  Args:
    path: of a folder or file, local or ``gs://``, ``s3://``, ``hf://``; or ``owner/name``,
      ``owner/name/folder``, ``owner/name/file`` and ``owner/name@revision`` on the Hugging Face
      hub, which is downloaded into its cache first: see ``patterns``. ``#name`` behind it, which
      chooses a dictionary of a PyTorch file, is kept.

  Raises:
    UserError: there is no such place, or the hub has no such repository or cannot be reached.
  """
  place, choice = split_choice(path)
  suffix = f'#{choice}' if choice else ''
  return _locate(place) + suffix


def _locate(path: str) -> str:
  if _exists(path):
    return path
  if '://' in path:
    raise user_error(path, None, 'no such folder or file in that bucket')
  match = _HUB.fullmatch(path)
  if not match or not is_hub_id(match['repo']):
    raise user_error(path, None, 'no such folder or file; give one with a model, or the id of a '
                     'model on the Hugging Face hub (owner/name)')
  return _download(path, **match.groupdict())


def patterns(place: str, endings: Sequence[str] = _SOONER) -> list[str]:
  """Files to fetch from a repository: JSON and weights of a folder; a file and its config.json.

  Args:
    place: within the repository; '' is all of it.
    endings: of weights to fetch from a folder.
  """
  if place.endswith(ENDINGS):
    return [place, f'{place.rpartition("/")[0]}/config.json'.lstrip('/')]
  return [f'{place}/*{ending}'.lstrip('/') for ending in ('.json', *endings)]


def _exists(path: str) -> bool:
  try:
    return epath.Path(path).exists()
  except Exception as error:  # each cloud has errors of its own, all of them the user's to mend
    text = ' '.join(str(error).split())[:160]
    advice = _ADVICE.get(path.partition('://')[0], 'pip install gcsfs')
    raise user_error(path, None, f'could not be reached ({text}); {advice} and check your access'
                     ) from error


def _holds_weights(place: pathlib.Path) -> bool:
  files = place.rglob('*') if place.is_dir() else [place]
  return any(file.suffix in ENDINGS for file in files)


def _download(path: str, repo: str, place: str | None, revision: str | None) -> str:
  import huggingface_hub
  from huggingface_hub import errors
  advice = 'no such folder here, and on the Hugging Face hub '
  try:
    fetch = functools.partial(huggingface_hub.snapshot_download, repo, revision=revision)
    root = fetch(allow_patterns=patterns(place or ''))
    if not _holds_weights(pathlib.Path(root) / (place or '')):
      root = fetch(allow_patterns=patterns(place or '', ENDINGS))
  except errors.GatedRepoError as error:
    raise user_error(path, None, f'{advice}{repo} is gated; accept its licence there and log in '
                     'with `hf auth login`') from error
  except errors.RevisionNotFoundError as error:
    raise user_error(path, None, f'{advice}{repo} has no revision {revision!r}') from error
  except errors.RepositoryNotFoundError as error:
    raise user_error(path, None, f'{advice}no {repo} either; check the name, or log in with '
                     '`hf auth login` if it is private') from error
  except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, OSError) as error:
    raise user_error(path, None, 'no such folder here, and the Hugging Face hub is not reachable '
                     '(or HF_HUB_OFFLINE is set) while its cache lacks it; go online once or give '
                     'a local folder') from error
  except ValueError as error:
    raise user_error(path, None, f'no such folder, and no id of the Hugging Face hub '
                     f'({" ".join(str(error).split())[:120]})') from error
  found = epath.Path(root) / (place or '')
  if not found.exists():
    raise user_error(path, None, f'{advice}{repo} has no {place}; offline, its cache may lack it')
  return str(found)
