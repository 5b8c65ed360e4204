"""iMontage's references with a control map (section 3.2.2; L015): map, references, target.

  jaxgen curate configs/curation/controls.py --in=echo-4o-image:data/Echo-4o-Image \
    --out=data/control_reference --engine=ray --workers=16 \
    --model=depth=onnx:depth_anything_v2_vitb.onnx --model=pose=onnx:yolov8m-pose.onnx

The input is a set of references and targets by its name, or what references.py has made. Each
sample gets one map of its target, drawn at random among those that show something. The paper keeps
about 50k, of poses by OpenPose, depth by Depth-Anything-V2 and learned line art; lines are OpenCV's
here unless the stage gets a model ``lines``, and edges are a fourth signal, which the released
model knows. Nothing is asked but the two ONNX files, on CPUs.
"""

from jaxgen.curation import compositions
from jaxgen.curation import controls
from jaxgen.curation.recipe import Recipe
from jaxgen.curation.recipe import Stage
from jaxgen.curation.recipe import Use
from jaxgen.curation.sets import read_set
from jaxgen.curation.sets import reference_fields


def get_recipe():
  return Recipe(
      read_set,
      [Stage(reference_fields, most=3),
       Stage(controls.mapped, signals=['canny', 'lineart', 'depth', 'openpose'],
             depth=Use('depth'), pose=Use('pose')),
       Stage(compositions.montage_sample, wording='conditioned_cref')],
      models={'depth': '', 'pose': ''}, chunk=256)
