"""Public sets as inputs of recipes: read by name, and edits of all of them in one form."""

from collections.abc import Sequence

from jaxgen.curation import readers
from jaxgen.curation.record import Dropped
from jaxgen.curation.record import Record
from jaxgen.data.decode import image_file
from jaxgen.data.sources import KINDS
from jaxgen.data.sources import PRESETS


def read_set(path: str) -> Sequence[Record]:
  """Samples at ``KIND:PATH``, a public set by its name or a kind of source, or at ``PATH``."""
  kind, colon, folder = path.partition(':')
  if colon and (kind in PRESETS or kind in KINDS):
    return readers.samples(kind)(folder)
  return readers.samples()(path)


def edit_fields(record: Record) -> Record | Dropped:
  """Takes the sample of an edit apart: ``source``, ``target``, encoded, and ``instruction``, its
  wordings. Samples of more than one turn or source are none."""
  sample = record['sample']
  sources = [part for part in sample.images if part.role != 'target']
  targets = [part for part in sample.images if part.role == 'target']
  texts = [part for part in sample.texts if part.role == 'user' and part.text.strip()]
  if [part.role for part in sources] != ['source'] or len(targets) != 1 or len(texts) != 1:
    return record.drop('no edit of one image', roles=[part.role for part in sample.parts])
  return record.without('sample').having(
      source=image_file(sources[0].image), target=image_file(targets[0].image),
      instruction=list(texts[0].variants or (texts[0].text,)))


def reference_fields(record: Record, *, most: int = 4) -> Record | Dropped:
  """Takes a picture of references apart: ``given``, ``targets`` of one, both encoded, and
  ``instruction``, its wordings; a text that stands between the references becomes one.

  Args:
    record: with ``sample``.
    most: references.
  """
  sample = record['sample']
  given = [part for part in sample.images if part.role != 'target']
  targets = [part for part in sample.images if part.role == 'target']
  texts = [part for part in sample.texts if part.role == 'user' and part.text.strip()]
  if not 1 <= len(given) <= most or len(targets) != 1 or not texts:
    return record.drop('no picture of references', roles=[part.role for part in sample.parts])
  return record.without('sample').having(
      given=[image_file(part.image) for part in given], targets=[image_file(targets[0].image)],
      instruction=(list(texts[0].variants) or [texts[0].text] if len(texts) == 1 else
                   [' '.join(part.text.strip() for part in texts)]))
