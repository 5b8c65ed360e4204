"""iMontage's style transfers (section 3.2.2; L016): content, style image, target.

  jaxgen curate configs/curation/styles.py --in=POOL --out=data/style_reference --engine=ray \
    --workers=16 --model=faces=onnx:yolov8n-face.onnx --model=judge=chat:gpt-4o \
    --model=painter=images:USO@http://HOST:8000/v1 --model=identity=onnx:arcface.onnx

POOL has the folders content, photographs of people, and style, drawn illustrations, or names roles
in sources.jsonl. Photographs of one face and a good aesthetic score meet illustrations at random;
``painter`` is asked once for a pair, the judge twice. ``identity`` compares what was drawn with
both: it must be the person of the photograph, and not the subject of the illustration. The paper
keeps 35k, drawn by USO and CSGO; prompts and bounds are ours.
"""

from jaxgen.curation import checks
from jaxgen.curation import compositions
from jaxgen.curation import filters
from jaxgen.curation import readers
from jaxgen.curation import styles
from jaxgen.curation.recipe import Group
from jaxgen.curation.recipe import Recipe
from jaxgen.curation.recipe import Stage
from jaxgen.curation.recipe import Use


def get_recipe():
  content = {'role': 'content'}
  return Recipe(
      readers.files(*readers.IMAGES),
      [Stage(compositions.opened, roles=['content', 'style'], side=512, packs=256),
       Stage(filters.single_face, model=Use('faces'), field='image', where=content),
       Stage(checks.judged, model=Use('judge'), prompt=styles.AESTHETIC, least={'aesthetic': 6},
             images=['image'], where=content),
       Group(compositions.composed, 'pack', patterns=[['content', 'style']], uses=1),
       Stage(compositions.drawn, model=Use('painter'), prompt=styles.STYLISE),
       Stage(styles.content_kept, model=Use('identity'), least=0.3, most=0.5),
       Stage(checks.judged, model=Use('judge'), prompt=styles.JUDGE,
             least={'style': 7, 'content': 7, 'quality': 7}),
       Stage(compositions.montage_sample, wording='sref', sources=1)],
      models={'faces': '', 'judge': '', 'painter': '', 'identity': ''}, chunk=256, buckets=64,
      threads=16)
