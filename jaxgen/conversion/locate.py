"""Resolves a path to a model or a pipeline: a local folder or file, a bucket, a hub repository."""

import functools
import pathlib
import re
from collections.abc import Callable, Sequence

from etils import epath

from jaxgen.conversion.weight_files import ENDINGS
from jaxgen.conversion.weight_files import read_json
from jaxgen.conversion.weight_files import split_choice
from jaxgen.core.errors import UserError
from jaxgen.core.errors import user_error
from jaxgen.core.files import in_bucket
from jaxgen.core.files import is_hub_id
from jaxgen.core.files import there

_HUB = re.compile(r'(?P<repo>[\w.-]+/[\w.-]+)(/(?P<place>[\w./-]+))?(@(?P<revision>[\w./-]+))?')
# Many repositories hold the same weights as .bin too, which is fetched where there is nothing else.
_SOONER = tuple(ending for ending in ENDINGS if ending != '.bin')
INDEX = 'model_index.json'  # of a pipeline: its class and those of its components
# What else a component may consist of: configs, chat templates and vocabularies.
_SMALL = ('.json', '.jinja', '.txt', '.model')


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
  if there(path):
    return path
  if in_bucket(path):
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


def locate_pipeline(path: str) -> str:
  """A local or bucket folder that holds a whole pipeline.

  Args:
    path: of a folder, or ``owner/name[@revision]`` on the hub, of which the components alone are
      fetched: releases hold the same weights once more beside them.

  Raises:
    UserError: as ``locate``.
  """
  if there(path) or in_bucket(path):
    return _locate(path)
  match = _HUB.fullmatch(path)
  if not match or match['place'] or not is_hub_id(match['repo']):
    raise user_error(path, None, 'no such folder; give one of a pipeline, or the id of one on the '
                     'Hugging Face hub (owner/name)')
  return _download(path, match['repo'], None, match['revision'], _fetch_components)


def _fetch_components(fetch: Callable[..., str], place: str) -> str:
  """Fetches what the index of a repository names, and PyTorch's files where there are no others."""
  del place
  root = fetch(allow_patterns=[INDEX])
  if not (index := epath.Path(root) / INDEX).exists():
    return root
  parts = [name for name, entry in read_json(index).items() if isinstance(entry, list)]
  for endings in (_SOONER, ENDINGS):
    root = fetch(allow_patterns=[f'{name}/*{ending}' for name in parts
                                 for ending in (*_SMALL, *endings)])
    if any(_holds_weights(pathlib.Path(root) / name) for name in parts):
      break
  return root


def _holds_weights(place: pathlib.Path) -> bool:
  files = place.rglob('*') if place.is_dir() else [place]
  return any(file.suffix in ENDINGS for file in files)


def _fetch_model(fetch: Callable[..., str], place: str) -> str:
  """Fetches a folder or file, and PyTorch's files where there are no others."""
  root = fetch(allow_patterns=patterns(place))
  if not _holds_weights(pathlib.Path(root) / place):
    root = fetch(allow_patterns=patterns(place, ENDINGS))
  return root


def _download(path: str, repo: str, place: str | None, revision: str | None,
              wanted: Callable[[Callable[..., str], str], str] = _fetch_model) -> str:
  """The folder of a repository in the hub's cache, or ``place`` in it; ``wanted`` fetches it."""
  import huggingface_hub
  from huggingface_hub import errors
  advice = 'no such folder here, and on the Hugging Face hub '
  try:
    root = wanted(functools.partial(huggingface_hub.snapshot_download, repo, revision=revision),
                  place or '')
  except UserError:
    raise
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
