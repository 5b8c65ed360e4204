"""Text files that are written whole or not at all, and JSON Lines."""

import contextlib
import json
from typing import Any

from etils import epath


def write_text(file: epath.Path, text: str) -> None:
  """Writes a file whole or not at all."""
  fresh = file.parent / f'.{file.name}.new'
  fresh.write_text(text)
  fresh.replace(file)


def read_lines(file: epath.Path) -> list[dict[str, Any]]:
  """The lines of a JSON Lines file, none where it does not exist; of a line that was not written
  to its end nothing is kept."""
  lines = []
  for line in file.read_text().splitlines() if file.exists() else ():
    with contextlib.suppress(json.JSONDecodeError):
      lines.append(json.loads(line))
  return lines
