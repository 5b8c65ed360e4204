"""DuetGen's synthetic dialogues (section 3.1; L122, L123): seeds, instructions, drawn answers.

  jaxgen curate configs/curation/seed_prompts.py --out=data/synthetic --engine=ray --workers=16 \
    --model=writer=chat:o3 --model=painter=images:gpt-image-1

Without --in, ten seeds of each of 151 sub-categories are written by the model; the paper's 1,500
are written by people: give them as a table with the columns domain, category and seed. Expect up
to 15,100 instructions; the paper has 15,270, draws their answers by Nano Banana, and keeps about
30k dialogues with those of 15k pictures of dishes, 700 of them for evaluation. ``writer`` is asked
1,700 times for instructions and once for an answer, ``painter`` once for a picture, up to six for
a dialogue. Limits of calls belong into this file before a run that is paid for.
"""

from jaxgen.curation import seeds
from jaxgen.curation.dialogues import dialogue_sample
from jaxgen.curation.recipe import Group
from jaxgen.curation.recipe import Recipe
from jaxgen.curation.recipe import Stage
from jaxgen.curation.recipe import Use


def get_recipe():
  return Recipe(
      seeds.read_seeds,
      [Stage(seeds.seeded, model=Use('writer'), count=10),
       Stage(seeds.expanded, model=Use('writer'), count=10),
       Group(seeds.unrepeated, 'key'),
       Stage(seeds.answered, model=Use('writer'), least=2, most=6),
       Stage(seeds.drawn, model=Use('painter')),
       Stage(dialogue_sample)],
      models={'writer': '', 'painter': ''}, licence='synthetic', chunk=4, buckets=32, threads=16)
