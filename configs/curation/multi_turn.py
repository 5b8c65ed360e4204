"""iMontage's multi-turn edits (section 3.2.2; L017): an image, numbered edits, an image after each.

  jaxgen curate configs/curation/multi_turn.py --in=magicbrush:data/MagicBrush \
    --out=data/multi_turn --engine=ray --workers=16 \
    --model=writer=chat:Qwen/Qwen2.5-VL-72B-Instruct@http://HOST:8000/v1 \
    --model=editor=images:gpt-image-1 \
    --model=judge=chat:Qwen/Qwen2.5-VL-72B-Instruct@http://HOST:8000/v1

The input is an edit set by its name (magicbrush, seed-data-edit-multi, imgedit-multi, or one of
single edits), or a source of pictures. Edits of one picture that follow each other are joined;
chains of less than two turns, and pictures alone, are continued to two to four: ``writer`` is asked
once for such a chain, ``editor`` and ``judge`` once for each turn that is added. Of the 8,807 edits
that MagicBrush trains on no chain is longer than three turns. The paper has about 100k chains and
says neither what they are made of nor how; prompts and bounds are ours.
"""

from jaxgen.curation import compositions
from jaxgen.curation import turns
from jaxgen.curation.recipe import Group
from jaxgen.curation.recipe import Recipe
from jaxgen.curation.recipe import Stage
from jaxgen.curation.recipe import Use
from jaxgen.curation.sets import read_set


def get_recipe():
  return Recipe(
      read_set,
      [Stage(turns.turns_of),
       Group(turns.chained, 'chain'),
       Stage(turns.continued, writer=Use('writer'), editor=Use('editor'), least=2, most=4),
       Stage(turns.judged_turns, model=Use('judge'), least=2, fidelity=7, quality=7),
       Stage(turns.windows, least=2, most=4),
       Stage(compositions.montage_sample, wording='image_editing', sources=1)],
      models={'writer': '', 'editor': '', 'judge': ''}, chunk=256, buckets=64, threads=16)
