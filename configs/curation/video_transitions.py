"""DuetGen's transitions between frames of a video (section 3.2; L124), for its alignment.

  jaxgen curate configs/curation/video_transitions.py --in=VIDEOS --out=data/video --engine=ray \
    --workers=64 --model=captioner=chat:Qwen/Qwen2.5-VL-32B-Instruct@http://HOST:8000/v1

VIDEOS is a folder of files, with their licences and addresses in sources.jsonl. Scenes are cut into
clips of 5 s; the captioner describes what moves from the first to the last frame of each. The paper
takes 5M raw videos. Expect up to 12 samples from a minute of video; docs/curation.md has the speed
of a core. The captioner is asked once for each, and needs GPUs of its own.
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
       Stage(clips.clips, seconds=5.0, shortest=2.5),
       Stage(clips.end_frames, rate=2.0),
       Stage(clips.unlike_ends, least=2.0),
       Siblings(clips.unlike_clips, least=6),
       Stage(motion.motion),
       Stage(motion.moving, least=0.005, most=1.0),
       Stage(clips.caption, model=Use('captioner')),
       Stage(clips.frame_pair)],
      models={'captioner': ''}, chunk=64, threads=8)
