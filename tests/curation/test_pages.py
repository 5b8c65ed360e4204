"""Web pages: the main content, a clean text, the images that belong to it, and their dialogue."""

import base64
import json
import re

import numpy as np
import pytest
from PIL import Image

from jaxgen.core.errors import RecordError
from jaxgen.curation import dialogues
from jaxgen.curation import page_images
from jaxgen.curation import pages
from jaxgen.curation import readers
from jaxgen.curation import slots
from jaxgen.curation.answers import answer
from jaxgen.curation.answers import value_of
from jaxgen.curation.dialogues import Form
from jaxgen.curation.models import Reply
from jaxgen.curation.models import Request
from jaxgen.curation.record import Dropped
from jaxgen.curation.record import Lineage
from jaxgen.curation.record import Record
from jaxgen.data.decode import decode
from tests.curation import pages_of

FORM = Form(turns=6, words=40, share=0.5)


class Scripted:
  """A model that answers by a function of the request; replay files do not tell images apart."""

  def __init__(self, function):
    self._function, self.asked = function, []

  def ask(self, requests):
    """See ``Model``."""
    self.asked += requests
    return [reply if isinstance(reply, Reply) else Reply(reply)
            for reply in map(self._function, requests)]


def split(made):
  """The one record, and the reasons of drops."""
  made = [made] if isinstance(made, Record | Dropped) else list(made)
  record, = [each for each in made if isinstance(each, Record)] or [None]
  return record, [each.reason for each in made if isinstance(each, Dropped)]


def page(text, images):
  return Record('a', dict(markdown=text, images=images, about=['']*len(images)), Lineage('a'))


@pytest.fixture(scope='module')
def site(tmp_path_factory):
  return readers.files(*readers.PAGES)(pages_of.site(tmp_path_factory.mktemp('site')))


@pytest.fixture(scope='module')
def bread(site):
  return split(pages.main_content(site[1]))


def test_the_main_content_is_found_with_its_images(bread):
  record, reasons = bread
  text = record['markdown']
  assert text.startswith('# How to bake bread\n\nBread is made of')
  assert 'Home' not in text and 'Copyright' not in text
  assert slots.numbers(text) == list(range(1, 10)) and len(record['images']) == 9
  # A lazy image, the largest of a set, and an address without an ending that sources.jsonl knows.
  sizes = [decode(image).shape[:2] for image in record['images'] if image.startswith(b'\xff')]
  assert sizes == [(200, 300), (160, 240), (60, 400), (200, 300), (200, 300), (200, 300)]
  assert '![Mixing by hand](2)' in text and '![mixing again](3)' in text
  # One file is missing, and one is not of the input.
  assert reasons == ['no such image'] * 2


def test_the_text_is_cleaned(bread):
  record, reasons = split(page_images.worthy_images(pages.cleaned(bread[0])))
  assert reasons == ['icon', 'advertisement', 'advertisement', 'QR code', 'user interface']
  record, reasons = split(page_images.unlike_neighbours(record))
  assert reasons == ['like its neighbour']
  said = slots.renamed(record, ['a', 'b', 'c'])
  assert said['markdown'] == pages_of.CLEAN.format('a', 'b', 'c')
  assert [decode(image).shape for image in said['images']] == [(200, 300, 3)] * 3


@pytest.mark.parametrize('image, kept', [
    ('<img src="files/mix%201.jpg">', 1), ('<img src="/files/bake.jpg#top">', 1),
    ('<img src="">', 0), ('<img>', 0), ('<img src="http://[x">', 0), ('<img src="a%00.jpg">', 0),
    ('<img src="data:image/png;base64,!!!">', 0), ('<img src="data:image/png,abc">', 0),
    (f'<img src="data:image/png;base64,{base64.b64encode(b"bytes").decode()}">', 1),
    ('<img src="files/bake.jpg" alt="a\x01 ] [b](c) &#11;">', 1), ('<img src="../files/">', 0),
    ('<img srcset="files/bake.jpg 2x, files/rise.jpg wide, ,">', 1),
    ('write ![alt](1) for an image <img src="files/bake.jpg">', 1),
    ('<img src="files/none.jpg" srcset="   ">', 0)])
def test_addresses_of_all_kinds(site, image, kept):
  text = 'There is quite a lot to say of bread and of all that one can bake with it. ' * 5
  record = site[0]
  path = record['path'].replace('alone', 'kind')
  with open(path, 'w') as file:
    file.write(f'<html><body><article><p>{text}</p><p>Then {text}{image}</p>'
               '<p>The end.</p></article>')
  made, _ = split(pages.main_content(record.having(path=path, name='kind.html')))
  assert len(made['images']) == kept == len(slots.numbers(made['markdown']))


@pytest.mark.parametrize('given, wanted', [
    ('a <b class="x">bold</b> word<br/>', 'a bold word'),
    ('3 < 4 and 5 > 2', '3 < 4 and 5 > 2'),
    ('Tom &amp;amp; Jerry', 'Tom &amp; Jerry'),
    ('see [this (one)](https://e.org/a "t") or www.e.org/b.', 'see this (one) or'),
    ('so\u200bft\u00ad hy\u00adphens\xa0here', 'soft hyphens here'),
    ('one\n\n**Advertisement**\n\n- Share this\n\ntwo', 'one\n\ntwo'),
    ('Print the pattern on paper.', 'Print the pattern on paper.'),
    ('one\ntwo\n- three\nfour\n# five\nsix', 'one two\n- three four\n# five\nsix'),
    ('```\na  <b>\n  c\n```', '```\na  <b>\n  c\n```'),
    ('    indented code stays', '    indented code stays'),
])
def test_kinds_of_dirt(given, wanted):
  made = pages.cleaned(page(f'first\n\n{given}\n\nlast', []))
  assert made['markdown'] == f'first\n\n{wanted}\n\nlast'


def test_pages_without_a_subject_are_dropped(site):
  alone, _ = split(pages.main_content(site[0]))
  assert pages.substantial(alone).reason == 'too few images'
  assert pages.substantial(page('a b c ![](1)', [b''])).reason == 'too short'
  assert pages.substantial(page('我' * 70 + '![](1)', [b''])).lineage.notes['words'] == 70
  with pytest.raises(RecordError, match='none.html: is no HTML page'):
    list(pages.main_content(site[2]))


@pytest.mark.parametrize('image, about, reason', [
    (pages_of.drawing(), '', ''),
    (pages_of.photos(1)[0], 'how-to-sew-on-a-button.jpg', ''),
    (pages_of.photos(1)[0], 'https://e.org/how-to-draw-an-arrow/ad-hoc.jpg', ''),
    (pages_of.photos(1)[0], 'https://ads.e.org/1.jpg', 'advertisement'),
    (pages_of.photos(1)[0], 'a.jpg sponsored', 'advertisement'),
    (pages_of.photos(1)[0], '/img/logo.png', 'icon'),
    (pages_of.photos(1)[0].resize((100, 250)), '', 'icon'),
    (pages_of.photos(1)[0].resize((728, 190)), '', 'advertisement'),
    (pages_of.code(160), '', 'QR code'),
    (pages_of.interface(), '', 'user interface'),
])
def test_rules_of_images(image, about, reason):
  record = Record('a', dict(markdown='t ![](1)', images=[pages_of.encoded(image)], about=[about]),
                  Lineage('a'))
  made, reasons = split(page_images.worthy_images(record))
  assert reasons == ([reason] if reason else []) and len(made['images']) == (not reason)


def test_a_label_with_a_code_is_no_code():
  image = pages_of.photos(1, 900, 600)[0]
  image.paste(pages_of.code(150), (700, 400))
  assert not page_images.is_code(np.asarray(image), 0.1)
  assert page_images.is_code(np.asarray(image), 0.02)
  assert not page_images.is_interface(np.asarray(Image.new('RGB', (300, 300), 'white')))


def test_slots_follow_their_images():
  record = page('one ![a](2)\n\n![b](3) two ![c](2) ![d](9)', [b'1', b'2', b'3'])
  made = slots.laid_out(record, record['markdown'])
  assert made['markdown'] == 'one ![a](1)\n\n![b](2) two' and made['images'] == [b'2', b'3']
  fewer = slots.without(made, [1])
  assert fewer['markdown'] == 'one\n\n![b](1) two' and fewer['images'] == [b'3']
  assert slots.pieces('a ![](1) ![x](2) b') == ['a', 1, 2, 'b']
  assert slots.blocks('a ![](1) b\n\n\nc') == ['a', '![](1)', 'b', 'c']


def test_an_answer_of_another_form_is_asked_for_again():
  model = Scripted(lambda request: '[1, 2' if 'cannot be used' not in request.text else
                   'Sure:\n```json\n[1, 2]\n```')
  found = answer(model, Request('two numbers'), lambda text: value_of(text, list))
  assert found.value == [1, 2] and found.asked == 2
  assert model.asked[1].text.startswith('two numbers\n\nYour last answer was:\n[1, 2\n')
  refused = answer(Scripted(lambda _: Reply(error='no')), Request('x'), str)
  assert refused.error == 'no' and refused.asked == 1
  assert value_of("[ 'English prompt', 'it\\'s' ]", list) == ['English prompt', "it's"]
  for wrong in ('none', '[1, x]', '{"a": 1}'):
    with pytest.raises(ValueError, match='JSON'):
      value_of(wrong, list)


def test_images_of_other_kinds_go():
  images = [pages_of.encoded(image) for image in pages_of.photos(3)]
  kinds = dict(zip(images, ('photo', 'document', 'moon')))
  model = Scripted(lambda request: json.dumps(dict(
      caption=f'an [image] of {kinds[request.images[0]]}', category=kinds[request.images[0]])))
  made, reasons = split(dialogues.described(page('a ![](1) b ![](2) c ![](3)', images),
                                            model=model))
  assert made['markdown'] == 'a ![an image of photo](1) b  c'
  assert reasons == ['image: document', 'image: not described'] and len(model.asked) == 4


def test_a_text_is_rewritten_with_its_images():
  record = page('one two three ![x](1) four five ![y](2) six', [b'1', b'2'])
  good = 'One, two and three.\n\n![](1)\n\nFour. ![](2)'
  made, _ = split(dialogues.rewritten(record, model=Scripted(lambda _: good)))
  assert made['markdown'] == 'One, two and three.\n\n![x](1)\n\nFour. ![y](2)'
  for bad, why in (('one two three ![](1) four', r'slots are \[1\]'),
                   ('a ![](1) ![](2)', '1 words'), ('one two three ![](2) x ![](1)', 'order')):
    dropped = dialogues.rewritten(record, model=Scripted(lambda _: bad))
    assert dropped.reason == 'not rewritten'
    assert re.search(why, dropped.facts['error'])


def test_images_follow_what_describes_them():
  images = [pages_of.encoded(image) for image in pages_of.photos(3)]
  record = page('![x](1)\n\nfirst ![y](2) second\n\n![z](3)\n\nthird', images)
  model = Scripted(lambda _: '{"1": 1, "2": 3, "3": 0}')
  made, reasons = split(dialogues.reordered(record, model=model))
  assert made['markdown'] == 'first\n\n![x](1)\n\nsecond\n\nthird\n\n![y](2)'
  assert made['images'] == images[:2] and reasons == ['image: belongs to no text']
  assert made.lineage.notes['reordered'] and len(model.asked[0].images) == 3
  assert 'Paragraph 3: third\n\nImage 1: ![x](1)' in model.asked[0].text
  same, _ = split(dialogues.reordered(made, model=Scripted(lambda _: '{"1": 1, "2": 3}')))
  assert same['markdown'] == made['markdown'] and not same.lineage.notes['reordered']
  for wrong in ('{"1": 4, "2": 0, "3": 0}', '{"1": 1}', '[1]', '{"1": true, "2": 0, "3": 0}'):
    assert split(dialogues.reordered(record, model=Scripted(lambda _: wrong)))[1] == ['not ordered']


def told(*turns):
  return json.dumps([dict(role=role, content=said) for role, said in turns])


GOOD = (('user', 'How? ![](1)'), ('assistant', 'So. ![](2) Then. ![](3)'))


def test_a_dialogue_becomes_a_sample():
  images = [b'1', b'2', b'3']
  made = dialogues.dialogue(page('x ![](1) ![](2) ![](3)', images),
                            model=Scripted(lambda _: told(*GOOD)))
  parts = dialogues.dialogue_sample(made)['sample'].parts
  assert [(part.role, part.text or part.image, part.loss) for part in parts] == [
      ('user', 'How?', False), ('context', b'1', False), ('assistant', 'So.', True),
      ('target', b'2', True), ('assistant', 'Then.', True), ('target', b'3', True)]


@pytest.mark.parametrize('turns, wanted, mended', [
    ((('assistant', 'Hello!'), *GOOD, ('user', 'Thanks')), GOOD, ['greeting', 'no reply']),
    ((('user', 'How?'), ('human', '![](1)'), GOOD[1]), (('user', 'How?\n\n![](1)'), GOOD[1]),
     ['turns of one speaker']),
    ((GOOD[0], ('gpt', 'So. ![](2) ![](2) ![](7) Then. ![the end](3)')),
     (GOOD[0], ('assistant', 'So. ![](2)   Then. ![](3)')), ['slot', 'slot']),
])
def test_dialogues_are_mended(turns, wanted, mended):
  assert dialogues.checked(told(*turns), 3, FORM) == (list(wanted), mended)


@pytest.mark.parametrize('turns, why', [
    ((('user', 'How?'),), '2 to 6 turns'),
    (GOOD * 4, '2 to 6 turns'),
    ((('user', '![](1)'), GOOD[1]), 'must have a text'),
    ((('user', 'a ![](1) ![](2)'), ('assistant', 'b ![](3)')), 'one image'),
    ((GOOD[0], ('assistant', '![](2) So. ![](3)')), 'before it shows'),
    ((GOOD[0], ('assistant', 'So. ![](3) Then. ![](2)')), r'order, and are \[3, 2\]'),
    ((('user', 'How?'), ('assistant', 'So. ![](1)')), '1 of 3 images'),
    ((('user', 'How? ![](1)'), ('assistant', 'So.')), 'shows no image'),
    ((GOOD[0], ('assistant', 'So <b>now</b>. ![](2)')), 'HTML'),
    ((GOOD[0], ('assistant', 'See ![](files/a.jpg). ![](2)')), 'HTML'),
    ((GOOD[0], ('assistant', f'{"so " * 50} ![](2)')), '50 words'),
    ((('narrator', 'x'), *GOOD), 'a turn must be'),
])
def test_dialogues_of_another_form_are_refused(turns, why):
  with pytest.raises(ValueError, match=why):
    dialogues.checked(told(*turns), 3, FORM)


def test_a_dialogue_that_stays_wrong_is_dropped():
  model = Scripted(lambda _: told(('user', 'How?')))
  dropped = dialogues.dialogue(page('x ![](1)', [b'1']), model=model)
  assert dropped.reason == 'no dialogue' and len(model.asked) == 2
  assert '2 to 24 turns' in dropped.facts['error']
