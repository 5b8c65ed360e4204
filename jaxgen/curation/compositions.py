"""Samples of several images: opened from a pool, composed at random, drawn, and written.

What iMontage's builders share (section 3.2.2; L014 to L019). Their records have ``given``, files of
the images that a model gets, ``instruction``, its wordings, and ``targets``, files of those that it
is to draw.
"""

import collections
from collections.abc import Iterator
from collections.abc import Sequence

from jaxgen.curation.models import Model
from jaxgen.curation.models import Request
from jaxgen.curation.record import Dropped
from jaxgen.curation.record import Record
from jaxgen.data.decode import file_bytes
from jaxgen.data.decode import image_size
from jaxgen.data.sample import FileImage
from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample
from jaxgen.data.sample import text_part
from jaxgen.data.wordings import instructed


def opened(record: Record, *, roles: Sequence[str] = (), side: int = 512, packs: int = 1,
           seed: int = 0) -> Record | Dropped:
  """Reads an image of a pool.

  Args:
    record: of ``readers.files``. It gets ``image``, ``role`` and ``pack``. The role stands in
      ``sources.jsonl``, or else is the first folder of the file's name.
    roles: that are wanted; () takes any.
    side: pixels of the shorter side, at the least.
    packs: the images are dealt at random into so many, within each of which they are composed. One
      is held in memory by a worker.
    seed: of the deal.
  """
  image = file_bytes(FileImage(record['path']))
  role = record.fields.get('role') or record['name'].partition('/')[0]
  if roles and role not in roles:
    return record.drop('no such role', role=role)
  height, width = image_size(image)
  if min(height, width) < side:
    return record.drop('small image', height=height, width=width)
  return record.without('path', 'name').having(
      image=image, role=role, pack=str(record.rng(seed).integers(packs)))


def composed(records: Sequence[Record], *, patterns: Sequence[Sequence[str]], uses: int = 1,
             seed: int = 0) -> Iterator[Record | Dropped]:
  """Draws images of a pack together until no pattern can be filled any more: for ``Group``.

  Args:
    records: with ``image`` and ``role``. Compositions have ``given`` and ``roles``, in the order of
      their pattern; no image stands in one twice.
    patterns: lists of roles; all that can be filled are equally likely.
    uses: compositions that an image may be part of.
    seed: of the draws.
  """
  rng = records[0].rng(seed)
  left = dict.fromkeys(range(len(records)), uses)
  seen: set[tuple[int, ...]] = set()

  def free(role: str) -> list[int]:
    return [place for place, times in left.items() if times and records[place]['role'] == role]

  while open_ := [pattern for pattern in patterns
                  if all(len(free(role)) >= count
                         for role, count in collections.Counter(pattern).items())]:
    chosen: list[int] = []
    for role in open_[rng.integers(len(open_))]:
      among = [place for place in free(role) if place not in chosen]
      chosen.append(among[rng.integers(len(among))])
    for place in chosen:
      left[place] -= 1
    if tuple(chosen) not in seen:
      seen.add(tuple(chosen))
      yield _composition([records[place] for place in chosen])
  yield from (records[place].drop('left over') for place, times in left.items() if times == uses)


def drawn(record: Record, *, model: Model, prompt: str = '{text}') -> Record | Dropped:
  """Has the target drawn from the given images.

  Args:
    record: with ``given`` and ``instruction``; it gets ``targets``.
    model: draws.
    prompt: what it is asked; ``{text}`` stands for the instruction.
  """
  said = record.fields.get('instruction', [''])[0]
  reply, = model.ask([Request(prompt.replace('{text}', said), tuple(record['given']))])
  if reply.error or not reply.images:
    return record.drop('not drawn', error=reply.error)
  return record.having(targets=list(reply.images[:1]))


def montage_sample(record: Record, *, wording: str, sources: int = 0) -> Record:
  """The sample: given images, the instruction as the released model words it (L137), targets.

  The sentence that asks for N images is left to the ``edit_prompt`` of the config (L008).

  Args:
    record: with ``given``, ``instruction`` and ``targets``, and what else the wording has a place
      for: ``signal`` or ``style``.
    wording: a key of ``WORDINGS``.
    sources: given images, from the first one on, that are edited; the others are references.
  """
  fields = {name: record[name] for name in ('signal', 'style') if name in record.fields}
  texts = [instructed(wording, text, where=record.id, **fields) for text in record['instruction']]
  given = [Part('source' if number < sources else 'reference', image=image)
           for number, image in enumerate(record['given'])]
  return record.having(sample=Sample(record.id, (
      *given, text_part('user', texts),
      *(Part('target', image=image, loss=True) for image in record['targets'])),
                                     task='many_to_many'))


def _composition(chosen: Sequence[Record]) -> Record:
  first, *others = chosen
  return first.without('image', 'role', 'pack').having(
      given=[each['image'] for each in chosen],
      roles=[each['role'] for each in chosen]).joined(*others)
