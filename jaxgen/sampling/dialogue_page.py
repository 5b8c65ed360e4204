"""A dialogue as a page that needs no other file: its turns one below another, images inline."""

import itertools
from collections.abc import Mapping
from html import escape
from typing import Any

from jaxgen.core import pages
from jaxgen.data.decode import decode
from jaxgen.data.sample import Part
from jaxgen.sampling.interleaved import Dialogue
from jaxgen.sampling.interleaved import ENDED

SIDE = 1024  # longest side of an image on the page, in its own pixels
_STYLE = '''
body { max-width: 760px; font-size: 16px; } h1 { font-size: 20px; margin-bottom: 20px; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 10px 16px; margin: 12px 0; }
section.user { margin-left: 15%; } section.system { border-style: dashed; }
section h2 { font-size: 12px; font-weight: 500; margin: 0; color: var(--dim); }
p { margin: 8px 0; white-space: pre-wrap; overflow-wrap: anywhere; }
img { display: block; margin: 10px 0; max-width: 100%; min-width: 160px; border-radius: 8px;
  image-rendering: pixelated; }
footer { color: var(--dim); font-size: 13px; margin-top: 24px; overflow-wrap: anywhere; }
'''


def render(dialogue: Dialogue, settings: Mapping[str, Any]) -> str:
  """The page as HTML text.

  Args:
    dialogue: answered, or as far as it is.
    settings: what the answer depends on.
  """
  turns = itertools.groupby(dialogue.sample.parts, _speaker)
  sections = [f'<section class="{who}"><h2>{who}</h2>{"".join(map(_part, parts))}</section>'
              for who, parts in turns]
  told = ', '.join(f'{name} {value}' for name, value in settings.items()
                   if value not in (None, ''))
  ended = ENDED.get(dialogue.ended, dialogue.ended) or 'the answer goes on'
  return pages.document(
      dialogue.sample.id, f'<h1>{escape(dialogue.sample.id)}</h1>{"".join(sections)}'
      f'<footer>{escape(ended)}<br>{escape(told)}</footer>', _STYLE)


def _speaker(part: Part) -> str:
  """Whose turn a part belongs to."""
  if part.is_image:
    return 'assistant' if part.role == 'target' else 'user'
  return part.role


def _part(part: Part) -> str:
  if not part.is_image:
    return f'<p>{escape(part.text)}</p>'
  return pages.picture(decode(part.image), SIDE, part.role)
