"""iMontage's pictures of several references (section 3.2.2; L014): people, objects, scenes.

  jaxgen curate configs/curation/references.py --in=POOL --out=data/multi_reference --engine=ray \
    --workers=16 --model=faces=onnx:yolov8n-face.onnx --model=identity=tower:facebook/dinov2-base \
    --model=writer=chat:gpt-4o --model=painter=images:gpt-image-1 --model=judge=chat:gpt-4o

POOL has the folders human, object and scene, or names roles in sources.jsonl. Images of people are
kept with one face alone; references meet at random, two or three of them; ``writer`` composes the
prompt, ``painter`` draws it, ``identity`` compares people and objects with what was drawn, and
``judge`` scores it. Each is asked once for a picture, and drawing is what costs: set limits of
calls in this file before a run that is paid for. The paper keeps about 90k, draws by GPT-4o and
scores by a vision-language model; the patterns, the check by features and all bounds are ours.
"""

from jaxgen.curation import checks
from jaxgen.curation import compositions
from jaxgen.curation import filters
from jaxgen.curation import readers
from jaxgen.curation import references
from jaxgen.curation.recipe import Group
from jaxgen.curation.recipe import Recipe
from jaxgen.curation.recipe import Stage
from jaxgen.curation.recipe import Use

PATTERNS = [['human', 'object'], ['human', 'scene'], ['object', 'scene'], ['human', 'human'],
            ['human', 'object', 'scene'], ['human', 'human', 'scene']]


def get_recipe():
  return Recipe(
      readers.files(*readers.IMAGES),
      [Stage(compositions.opened, roles=['human', 'object', 'scene'], side=512, packs=256),
       Stage(filters.single_face, model=Use('faces'), field='image', where={'role': 'human'}),
       Group(compositions.composed, 'pack', patterns=PATTERNS, uses=2),
       Stage(references.prompted, model=Use('writer')),
       Stage(compositions.drawn, model=Use('painter')),
       Stage(checks.alike, model=Use('identity'), least=0.2, roles=['human', 'object']),
       Stage(checks.judged, model=Use('judge'), prompt=references.JUDGE,
             least={'prompt': 7, 'identity': 7, 'quality': 7}),
       Stage(compositions.montage_sample, wording='cref')],
      models={'faces': '', 'writer': '', 'painter': '', 'identity': '', 'judge': ''}, chunk=256,
      buckets=64, threads=16)
