"""Uploads to the Hugging Face hub; whether the hub allows them is asked before any work is done."""

import os
from collections.abc import Mapping

from jaxgen.core.errors import user_error
from jaxgen.core.files import is_hub_id
from jaxgen.core.files import one_line

FIELD = '--push-to'


def opened(repository: str, later: str):
  """The hub's client, known to be able to write a repository, which is made.

  ``HF_ENDPOINT`` names another server with the same interface.

  Args:
    repository: ``owner/name``.
    later: folder that can be uploaded some other time, for errors.

  Raises:
    UserError: no such name, the hub is not reachable, or nobody is logged in.
  """
  if not is_hub_id(repository):
    raise user_error(FIELD, repository, 'write owner/name')
  import huggingface_hub  # only for this flag
  from huggingface_hub import constants
  if constants.HF_HUB_OFFLINE:
    raise user_error(FIELD, repository, f'HF_HUB_OFFLINE is set; unset it, or upload {later} later')
  client = huggingface_hub.HfApi(endpoint=os.environ.get('HF_ENDPOINT'))
  try:
    client.whoami()
    client.create_repo(repository, exist_ok=True)
  except Exception as error:  # of the network, of the login, of the rights
    raise user_error(FIELD, repository, f'the hub refuses it ({one_line(error)}); log in with '
                     f'`hf auth login`, or upload {later} later') from error
  return client


def upload(client, repository: str, files: Mapping[str, str | bytes], message: str) -> str:
  """Uploads files in one commit, and returns where they are.

  Args:
    client: of ``opened``.
    repository: ``owner/name``.
    files: path in the repository -> file here, or its bytes.
    message: of the commit.

  Raises:
    UserError: the upload failed; the repository is as it was.
  """
  import huggingface_hub
  try:
    commit = client.create_commit(repository, [
        huggingface_hub.CommitOperationAdd(path, source) for path, source in files.items()],
        commit_message=message)
  except Exception as error:
    raise user_error(FIELD, repository, f'the upload failed ({one_line(error)}); run the command '
                     'again') from error
  return str(commit.repo_url)


def files_below(folder: str) -> dict[str, str]:
  """All files below a folder: path from there -> path."""
  return {os.path.relpath(os.path.join(root, name), folder).replace(os.sep, '/'):
          os.path.join(root, name)
          for root, _, names in os.walk(folder, followlinks=True) for name in sorted(names)}
