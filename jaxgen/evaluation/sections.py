"""Sections of the report of a run: its parameters, its fit, and what it drew of held-out samples.

Each is HTML text, empty where the run did not leave the files that it shows.
"""

from html import escape
from typing import Any

from etils import epath

from jaxgen.core import pages
from jaxgen.core.endpoint import image_url
from jaxgen.core.errors import user_error
from jaxgen.core.files import read_json
from jaxgen.training import overview

FIX = 'remove it, or run `jaxgen evaluate` again'


def parameters(name: str, folder: epath.Path) -> str:
  """The table of groups that the run printed at its start, and below it every parameter."""
  file = folder / overview.FILE
  if not file.exists():
    return ''
  groups, _, rows = file.read_bytes().decode(errors='replace').partition('\n\n')
  return (f'<h3>{escape(name)}</h3><div class="card"><pre>{escape(groups)}</pre><details><summary>'
          f'every parameter</summary><pre>{escape(rows)}</pre></details></div>')


def fit(name: str, folder: epath.Path) -> str:
  """PSNR of training samples that were drawn again, and their picture (``evaluate --fit``)."""
  found = record(folder / 'fit.json', 'images', 'psnr', 'psnr_min', 'psnr_shuffled')
  if found is None:
    return ''
  rows = [('images', 'PSNR, mean', 'lowest', "with another sample's condition"),
          (str(found['images']), *(f'{found[key]:.1f} dB' for key in (
              'psnr', 'psnr_min', 'psnr_shuffled')))]
  return (f'<h2>Fit of {escape(name)} to its own samples</h2><div class="card">{pages.table(rows)}'
          f'{_picture(folder / "samples/fit.png")}</div>')


def held_out(name: str, folder: epath.Path) -> str:
  """The same of held-out samples, beside a copy of their first image (``evaluate --held-out``)."""
  found = record(folder / 'held_out.json', 'table')
  if found is None:
    return ''
  rows = [('source', 'PSNR', 'PSNR of a copy', 'nearer than the copy', 'outputs')]
  for source, row in found['table'].items():
    rows.append((source, f'{row["psnr"]:.1f} dB', f'{row["copied"]:.1f} dB',
                 f'{row["better"]:.0%}', str(row['outputs'])))
  return (f'<h2>Held-out samples of {escape(name)}</h2><div class="card">{pages.table(rows)}'
          f'{_picture(folder / "samples/held_out.png")}</div>')


def record(file: epath.Path, *names: str) -> dict[str, Any] | None:
  """The contents of a file that an evaluation has written; None where there is none.

  Raises:
    UserError: the file is damaged, or one of the names is not in it.
  """
  if not file.exists():
    return None
  found = read_json(file, FIX)
  if missing := [name for name in names if name not in found]:
    raise user_error(str(file), None, f'damaged (without {" and ".join(missing)}); {FIX}')
  return found


def _picture(file: epath.Path) -> str:
  if not file.exists():
    return ''
  return f'<figure><img alt="" src="{image_url(file.read_bytes())}"></figure>'
