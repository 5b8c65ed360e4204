"""Debian's Chromium by Playwright, and what its users do with files."""

import base64
import contextlib
import shutil
from collections.abc import Iterator

from playwright.sync_api import Browser
from playwright.sync_api import Page
from playwright.sync_api import sync_playwright

FLAGS = ('--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-sync',
         '--disable-background-networking', '--disable-component-update')
# What a browser does when files are dropped on an element.
DROP = """(target, files) => {
  const data = new DataTransfer();
  for (const [name, text] of files) {
    const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
    data.items.add(new File([bytes], name, {type: 'image/png'}));
  }
  for (const kind of ['dragenter', 'dragover', 'drop'])
    target.dispatchEvent(
      new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));
}"""


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
  """A browser without a window."""
  with sync_playwright() as driver:
    path = shutil.which('chromium')
    with contextlib.closing(driver.chromium.launch(executable_path=path, args=FLAGS)) as found:
      yield found


def drop(page: Page, where: str, **files: bytes) -> None:
  """Drops PNG files on an element.

  Args:
    page: that has the element.
    where: its selector.
    **files: name, without its ending -> bytes.
  """
  page.locator(where).evaluate(DROP, [[f'{name}.png', base64.b64encode(data).decode()]
                                      for name, data in files.items()])
