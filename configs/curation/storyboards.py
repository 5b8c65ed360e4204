"""iMontage's storyboards (section 3.2.2; L019): a character, a style, two to four panels.

  jaxgen curate configs/curation/storyboards.py --in=CHARACTERS --out=data/storyboard --engine=ray \
    --workers=16 --model=faces=onnx:yolov8n-face.onnx --model=nsfw=onnx:clip_nsfw.onnx \
    --model=painter=images:seedream-4.0@https://HOST/v1 --model=captioner=chat:gpt-4o

CHARACTERS is a folder of pictures of people, with their licences and addresses in sources.jsonl.
Those of one face that are safe get a story and a style at random; ``painter`` is asked once for
each panel, ``captioner`` once for a storyboard. The paper keeps about 29k, drawn by Seedream 4.0
and captioned by GPT-4o. It does not print its templates: stories, styles, prompts and bounds are
ours.
"""

from jaxgen.curation import compositions
from jaxgen.curation import filters
from jaxgen.curation import readers
from jaxgen.curation import storyboards
from jaxgen.curation.recipe import Recipe
from jaxgen.curation.recipe import Stage
from jaxgen.curation.recipe import Use


def get_recipe():
  return Recipe(
      readers.files(*readers.IMAGES),
      [Stage(compositions.opened, side=512),
       Stage(filters.single_face, model=Use('faces'), field='image'),
       Stage(filters.scored, model=Use('nsfw'), field='image', name='nsfw', most=0.3),
       Stage(storyboards.planned, least=2, most=4),
       Stage(storyboards.panels_drawn, model=Use('painter')),
       Stage(storyboards.recaptioned, model=Use('captioner')),
       Stage(compositions.montage_sample, wording='storyboard')],
      models={'faces': '', 'nsfw': '', 'painter': '', 'captioner': ''}, chunk=256, threads=16)
