"""Pictures of the page of `jaxgen serve` for the documentation, of the run of `jaxgen hello`.

  python tools/page_pictures.py

Needs Chromium and the extras `demo` and `test`. Writes docs/images/page.png and page_dialogue.png.
"""

import pathlib
import signal
import subprocess
import sys
import tempfile

from PIL import Image

from jaxgen.checkpoints import packed
from jaxgen.sampling.hello import SHIPPED

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from tests.serving.browser.chromium import chromium

PROMPT = 'a yellow triangle at the bottom left, a yellow circle at the bottom right'
VIEW, COLORS = dict(width=1000, height=1000), 64


def main() -> None:
  with tempfile.TemporaryDirectory() as folder:
    run = pathlib.Path(folder) / 'hello'
    packed.unpack(SHIPPED, str(run))
    server = subprocess.Popen(
        [sys.executable, '-m', 'jaxgen.cli', 'serve', f'--workdir={run.name}', '--port=0',
         '--rows=1', '--images=2'], cwd=folder, stdout=subprocess.PIPE, text=True)
    try:
      url = server.stdout.readline().split()[-1].removesuffix('/v1')
      with chromium() as browser:
        page = browser.new_page(viewport=VIEW)
        page.goto(url)
        _draw(page)
        _save(page, 'page.png')
        _answer(page)
        _save(page, 'page_dialogue.png')
    finally:
      server.send_signal(signal.SIGTERM)
      server.wait()


def _draw(page) -> None:
  page.locator('#prompt textarea').fill(PROMPT)
  page.get_by_label('Images of their own noise').first.fill('4')
  page.locator('#asked > button').click()
  page.locator('#draw').click()
  page.get_by_text('4 drawn').wait_for()
  page.locator('#drawn img').nth(3).wait_for()


def _answer(page) -> None:
  page.get_by_role('tab', name='Dialogue').click()
  page.get_by_label('Images of the answer').fill('1')
  page.get_by_label('Tokens of a text').fill('1')
  page.locator('#turn textarea').fill(PROMPT)
  page.locator('#turn textarea').press('Enter')
  page.get_by_text('answered, seed').wait_for()
  page.locator('#dialogue .bot img').first.wait_for()


def _save(page, name: str) -> None:
  """Writes a picture of the page in few colours."""
  page.wait_for_timeout(1500)  # pictures fade in
  file = ROOT / 'docs/images' / name
  page.screenshot(path=file, full_page=True)
  Image.open(file).convert('RGB').quantize(COLORS).save(file, optimize=True)


if __name__ == '__main__':
  main()
