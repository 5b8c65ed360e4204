"""The page at ``/`` in a real Chromium, by ``make test-browser``: words, images that are dropped,
pictures, steps, errors, dialogues.
"""

import base64
import contextlib
import json
import re
import time
import zipfile

import httpx
import numpy as np
import pytest
from playwright.sync_api import expect

from jaxgen.core.image_files import to_png
from jaxgen.data.decode import decode
from jaxgen.serving import asked
from jaxgen.serving.drawing import Drawing
from tests.sampling.scripted import picture
from tests.serving import tiny
from tests.serving.browser.chromium import chromium
from tests.serving.browser.chromium import drop

pytestmark = pytest.mark.browser


@pytest.fixture(scope='module')
def engine(tiny_tokenizer):
  engine = tiny.make_engine(tiny.make_run(tiny_tokenizer))
  engine.start()
  yield engine
  assert engine.drain(60)
  assert engine.counts.programs == 0 and engine.counts.failed == 0


@pytest.fixture(scope='module')
def url(engine):
  with tiny.serving(engine, page=asked.Server(['--workdir=runs/mine'])) as url:
    yield url


@pytest.fixture(scope='module')
def browser():
  with chromium() as found:
    yield found


@pytest.fixture
def page(browser, url):
  """The page, which asks nobody but the server for anything and runs without an error."""
  with contextlib.closing(browser.new_context(viewport=dict(width=1200, height=1000))) as context:
    page = context.new_page()
    elsewhere, errors = [], []
    page.on('request', lambda request: request.url.startswith((url, 'data:', 'blob:')) or
            elsewhere.append(request.url))
    page.on('pageerror', lambda error: errors.append(str(error)))
    page.goto(url)
    page.locator('#prompt textarea').wait_for()
    yield page
    assert not elsewhere and not errors


def test_a_page_that_is_open_does_not_hold_a_server_that_stops(browser, engine):
  with contextlib.closing(browser.new_page()) as page:
    with tiny.serving(engine, page=asked.Server()) as url:
      page.goto(url)
      page.locator('#prompt textarea').wait_for()
      page.wait_for_timeout(500)
      began = time.monotonic()
    assert time.monotonic() - began < 7  # it would be cut off after 10


def code(page, where: str, index: int) -> str:
  """What stands in one of the views of a request, which are filled after they are opened."""
  view = page.locator(f'{where} .cm-content').nth(index)
  expect(view).to_have_text(re.compile(r'\S'), timeout=60_000)
  return '\n'.join(view.locator('.cm-line').all_inner_texts())


def said(page, where: str, pattern: str) -> None:
  expect(page.locator(where)).to_have_text(re.compile(pattern), timeout=60_000)


def picture_of(page, image) -> np.ndarray:
  """uint8[H, W, 3] of an element that shows one."""
  return decode(page.request.get(image.get_attribute('src')).body())


def test_words_and_dropped_images_are_drawn_as_the_api_draws_them(page, url):
  drop(page, '#source [aria-dropeffect]', room=to_png(picture(1)))
  drop(page, '#reference [aria-dropeffect]', chair=to_png(picture(2, (30, 20))))
  for role in ('source', 'reference'):
    page.locator(f'#{role} img').first.wait_for()
  page.locator('#prompt textarea').fill("put the chair in it, please don't shout")
  page.locator('#fresh input').uncheck()
  page.locator('#seed input').fill('7')
  page.locator('#draw').click()
  said(page, '#drawing', '1 drawn, seed 7')
  page.locator('#asked > button').click()
  fields = json.loads(code(page, '#asked', 0))
  assert fields['roles'] == ['source', 'reference'] and fields['seed'] == 7
  assert fields.pop('image') == ['room.png', 'chair.png']
  answer = httpx.post(f'{url}/v1/images/edits', data={
      name: value if isinstance(value, list) else str(value) for name, value in fields.items()
  }, files=[('image', ('a.png', to_png(image))) for image in (picture(1), picture(2, (30, 20)))])
  shown = picture_of(page, page.locator('#drawn img').first)
  assert np.array_equal(shown, decode(base64.b64decode(answer.json()['data'][0]['b64_json'])))
  assert '--form-string' in code(page, '#asked', 1) and 'image=@chair.png' in code(
      page, '#asked', 1)
  assert '--reference=chair.png' in code(page, '#asked', 2)


def test_steps_are_seen_as_they_are_done(page, engine, monkeypatch):
  advance = Drawing.advance
  monkeypatch.setattr(Drawing, 'advance', lambda self: (time.sleep(0.3), advance(self))[1])
  page.locator('#prompt textarea').fill('a cross')
  page.get_by_label('Steps').fill('6')
  seen = page.evaluate_handle("""() => {
    const seen = [];
    new MutationObserver(() => seen.push(document.querySelector('#drawing').innerText.trim()))
      .observe(document.body, {subtree: true, childList: true, characterData: true});
    return seen;
  }""")
  with tiny.held(engine):
    page.locator('#draw').click()
    said(page, '#drawing', 'waits for its turn')
  said(page, '#drawing', '1 drawn')
  steps = list(dict.fromkeys(line for line in seen.json_value() if line.startswith('step')))
  assert len(steps) > 2 and steps == sorted(steps)
  assert set(steps) <= {f'step {step} of 6' for step in range(1, 7)}


def test_stop_takes_the_request_out_of_the_queue(page, engine):
  page.locator('#prompt textarea').fill('a cross')
  left = engine.counts.left
  with tiny.held(engine):
    page.locator('#draw').click()
    end = time.monotonic() + 30
    while not engine.queued and time.monotonic() < end:
      page.wait_for_timeout(50)
    page.locator('#stop').click()
    said(page, '#drawing', 'stopped')
  end = time.monotonic() + 30
  while engine.counts.left == left and time.monotonic() < end:
    page.wait_for_timeout(50)
  assert engine.counts.left == left + 1


def test_what_cannot_be_drawn_is_said_in_one_line(page):
  page.get_by_label('Steps').fill('7')
  page.locator('#prompt textarea').fill('a cross')
  page.locator('#draw').click()
  said(page, '#drawing [role=alert]', '^steps = 7: use 1 to 6$')
  page.get_by_label('Steps').fill('2')
  drop(page, '#source [aria-dropeffect]', broken=b'<script>no image</script>')
  page.wait_for_timeout(500)
  page.locator('#draw').click()
  said(page, '#drawing [role=alert]', r'^image\[0\]: cannot be read')


def test_a_dialogue_is_answered_and_gone_on_with(page, tmp_path):
  page.get_by_role('tab', name='Dialogue').click()
  page.locator('#turn textarea').fill(tiny.USER)
  page.locator('#turn textarea').press('Enter')
  said(page, '#answering', 'answered, seed')
  texts = page.locator('#dialogue').inner_text()
  assert [text for text in tiny.ANSWER if text and text not in texts] == []
  assert not any(button.is_visible() for button in page.get_by_label('Share').all())
  images = page.locator('#dialogue .bot img')
  assert images.count() == tiny.ANSWER.count(None)
  with page.expect_download() as found:
    page.locator('#request-file a').first.click()
  found.value.save_as(tmp_path / 'request.zip')
  with zipfile.ZipFile(tmp_path / 'request.zip') as file:
    body = json.loads(file.read('request.json'))
    assert json.loads(file.read('dialogue.json')) == dict(parts=[
        dict(role='user', text=tiny.USER)])
  assert body['messages'] == [dict(role='user', content=[dict(type='text', text=tiny.USER)])]
  # A further turn has more images than this model may be given, and stays to be mended.
  page.locator('#turn textarea').fill('and this?')
  drop(page, '#turn textarea', chair=to_png(picture(2)))
  page.locator('#turn img').first.wait_for()
  page.locator('#turn textarea').press('Enter')
  said(page, '#answering [role=alert]', 'more than 2 images')
  assert page.locator('#turn textarea').input_value() == 'and this?'
  page.locator('#clear').click()
  said(page, '#answering', r'^\s*$')
