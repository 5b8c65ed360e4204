"""Atomic writes of text files, and reading of JSON Lines."""

import contextlib
import json
from typing import Any

from etils import epath


def write_text(file: epath.Path, text: str) -> None:
  """Writes a file atomically: into a temporary file that then replaces it."""
  fresh = file.parent / f'.{file.name}.new'
  fresh.write_text(text)
  fresh.replace(file)


def read_lines(file: epath.Path) -> list[dict[str, Any]]:
  """Reads a JSON Lines file; a missing file gives no lines, and a truncated line is dropped."""
  lines = []
  for line in file.read_text().splitlines() if file.exists() else ():
    with contextlib.suppress(json.JSONDecodeError):
      lines.append(json.loads(line))
  return lines
