"""DuetGen's dialogues from web pages (section 3.1; L120, L121), for both of its stages.

  jaxgen curate configs/curation/web_dialogues.py --in=PAGES --out=data/web --engine=ray \
    --workers=64 --model=vision=chat:Qwen/Qwen2.5-VL-72B-Instruct@http://HOST:8000/v1 \
    --model=writer=chat:Qwen/Qwen2.5-72B-Instruct@http://HOST:8001/v1

PAGES is a folder of HTML files with their images, as browsers save them, or with a mapping
"images" from address to path in each line of sources.jsonl; nothing is fetched. The paper takes
347k how-to pages and keeps 268k. ``vision`` is asked once for each image and once for a page,
``writer`` twice for a page; both need GPUs of their own. Stages before the models are bound by one
core for each worker; docs/curation.md has their speed. Prompts and bounds are ours, the paper
prints none.
"""

from jaxgen.curation import dialogues
from jaxgen.curation import page_images
from jaxgen.curation import pages
from jaxgen.curation import readers
from jaxgen.curation.recipe import Recipe
from jaxgen.curation.recipe import Stage
from jaxgen.curation.recipe import Use


def get_recipe():
  return Recipe(
      readers.files(*readers.PAGES),
      [Stage(pages.main_content),
       Stage(pages.cleaned),
       Stage(page_images.worthy_images, side=128, ratio=3.0, code_share=0.1),
       Stage(page_images.unlike_neighbours, least=8),
       Stage(pages.substantial, words=60, most_words=4000, images=1, most_images=24),
       Stage(dialogues.described, model=Use('vision'), keep=['photo', 'drawing']),
       Stage(pages.substantial, words=60, images=1),
       Stage(dialogues.rewritten, model=Use('writer')),
       Stage(dialogues.reordered, model=Use('vision')),
       Stage(pages.substantial, words=40, images=1),
       Stage(dialogues.dialogue, model=Use('writer'), turns=24, words=600, share=0.5),
       Stage(dialogues.dialogue_sample)],
      models={'vision': '', 'writer': ''}, chunk=64, threads=16)
