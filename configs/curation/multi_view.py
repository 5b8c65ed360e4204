"""iMontage's views of objects (section 3.2.2; L018): a base view, then one to four in order.

  jaxgen curate configs/curation/multi_view.py --in=data/MVImgNet --out=data/multi_view \
    --engine=ray --workers=16

The input has the folders class/instance with images and COLMAP's cameras in sparse/0, as MVImgNet
is unpacked; 2.0 has more objects. One sample is drawn of each of its 219,188 videos; the paper has
about 90k of MVImgNet v2, and has the motion of the camera told by GPT-4o. Here it is computed from
the cameras, without any model: what takes time is to read the images.
"""

from jaxgen.curation import compositions
from jaxgen.curation import views
from jaxgen.curation.recipe import Recipe
from jaxgen.curation.recipe import Stage


def get_recipe():
  return Recipe(
      views.read_objects,
      [Stage(views.chosen, least=1, most=4, degrees=10.0),
       Stage(compositions.montage_sample, wording='multiview', sources=1)],
      licence='MVImgNet Terms of Use', chunk=256)
