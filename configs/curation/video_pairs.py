"""iMontage's video frame pairs (section 3.2.1; L011 to L013): source frame, caption, target frame.

  jaxgen curate configs/curation/video_pairs.py --in=VIDEOS --out=data/video --engine=ray \
    --workers=64 --model=captioner=chat:Qwen/Qwen2.5-VL-32B-Instruct@http://HOST:8000/v1

VIDEOS is a folder of files, with their licences and addresses in sources.jsonl. Pairs are the first
and last frame of clips of up to 5 s within a scene, repeated by their motion, and of clips across
cuts. Expect up to 12 clips within scenes and 12 across cuts from a minute of video, of which the
filters leave what moves; docs/curation.md has the speed of a core. The captioner is asked once for
each pair, and needs GPUs of its own. The paper keeps 15M pairs. Its motion is RAFT's: --model
cannot name one here, but Stage(motion, model=Use('raft')) with onnx:FILE can. Bounds are ours, the
paper gives none.
"""

from jaxgen.curation import clips
from jaxgen.curation import motion
from jaxgen.curation import readers
from jaxgen.curation.recipe import Recipe
from jaxgen.curation.recipe import Siblings
from jaxgen.curation.recipe import Stage
from jaxgen.curation.recipe import Use


def get_recipe():
  return Recipe(
      readers.files(*readers.VIDEOS),
      [Stage(clips.scenes),
       Stage(clips.clips, seconds=5.0, shortest=1.0, across=True),
       Stage(clips.end_frames),
       Stage(clips.unlike_ends, least=2.0),
       Siblings(clips.unlike_clips, least=6),
       Stage(motion.motion),
       Stage(motion.moving, least=0.01),
       Stage(clips.caption, model=Use('captioner')),
       Stage(motion.weighted, typical=0.05, most=3),
       Stage(clips.frame_pair)],
      models={'captioner': ''}, chunk=64, threads=8)
