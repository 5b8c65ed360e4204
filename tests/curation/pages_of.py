"""A site of web pages with known contents: photographs, and all that a page shows beside them."""

import io
import json
import pathlib

import cv2
import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageEnhance

from tests.curation import videos_of

URL = 'https://example.org/bread/'
BREAD = '''<!doctype html><html><head><title>Bread</title></head><body>
<nav><a href="/">Home</a><img src="/files/logo.png" alt="Home of bread"></nav>
<aside class="ad"><a href="https://ads.example/x"><img src="files/aside.jpg"></a></aside>
<article><h1>How to bake bread</h1>
<p>Bread is made of flour, water and yeast. It takes some time, but <b>anyone</b> can bake it at
home. See <a href="https://example.org/flour">our guide to flour</a> or https://example.org/yeast.
</p>
<a href="/share"><img class="icon" src="files/share.png" alt="share"></a>
<h2>Step 1</h2>
<figure><img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=" data-src="files/mix%201.jpg?w=300"
alt="mixing"><figcaption>Mixing by hand</figcaption></figure>
<p>Mix 500 g of flour with 300 ml of warm water and the yeast in a large bowl until it is smooth
&lt;br&gt; and the bowl is clean.</p>
<img srcset="files/again.jpg 400w, files/none.jpg 200w" alt="mixing again">
<p>Advertisement</p>
<img src="files/wide.jpg" alt=""><img src="https://cdn.example/banner/1.jpg" alt="buy">
<h2>Step 2</h2><p>Knead it for ten minutes, and let it rise for an hour in a warm place.</p>
<img src="https://cdn.example/rise" alt="rising"><img src="files/code.png" alt="scan me">
<h2>Step 3</h2>
<p>Bake it at 220 degrees for forty minutes until the crust is brown and it sounds hollow.</p>
<img src="files/bake.jpg" alt="baking"><img src="files/app.png" alt="our app">
<img src="files/gone.jpg" alt="gone"><img src="../../../etc/passwd.jpg" alt="not of the site">
<p>Enjoy it with butter &amp; salt. It keeps for three days.</p><p>Share on Facebook</p></article>
<footer>Copyright by the bakers <img src="files/foot.jpg"></footer></body></html>'''
# What is left of it, with other words in the slots; mix and again are nearly the same.
CLEAN = '''# How to bake bread

Bread is made of flour, water and yeast. It takes some time, but **anyone** can bake it at home. \
See our guide to flour or

## Step 1

![{0}](1)

Mix 500 g of flour with 300 ml of warm water and the yeast in a large bowl until it is smooth and \
the bowl is clean.

## Step 2

Knead it for ten minutes, and let it rise for an hour in a warm place.

![{1}](2)

## Step 3

Bake it at 220 degrees for forty minutes until the crust is brown and it sounds hollow.

![{2}](3)

Enjoy it with butter & salt. It keeps for three days.'''
ALONE = f'<html><body><article><p>{"There is a lot to say of bread. " * 30}</p></article></body>'


def photos(count: int, width: int = 300, height: int = 200) -> list[Image.Image]:
  """Smooth pictures that differ."""
  return [picture.crop((seed, 0, seed + 128, 96)).resize((width, height))
          for seed, picture in enumerate(videos_of.textures(count))]


def code(side: int = 240) -> Image.Image:
  """A QR code."""
  pixels = cv2.QRCodeEncoder.create().encode(URL)
  return Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST).convert('RGB')


def interface(width: int = 420, height: int = 300) -> Image.Image:
  """A window with a bar, a list, fields and words."""
  image = Image.new('RGB', (width, height), '#f3f3f3')
  draw = ImageDraw.Draw(image)
  draw.rectangle((0, 0, width, 28), fill='#2b5797')
  draw.rectangle((0, 28, 110, height), fill='#dddddd', outline='#999999')
  for row in range(7):
    draw.rectangle((130, 50 + 32 * row, width - 30, 72 + 32 * row), fill='white', outline='#777777')
    draw.text((140, 54 + 32 * row), f'Setting number {row} of this program', fill='black')
    draw.text((10, 54 + 32 * row), f'Section {row}', fill='black')
  for column in range(4):
    draw.rectangle((200 + 50 * column, 36, 240 + 50 * column, 284), outline='#aaaaaa')
  return image


def drawing(side: int = 300) -> Image.Image:
  """A cartoon: flat colours, round shapes, few straight edges."""
  image = Image.new('RGB', (side, side), '#a8d8ea')
  draw = ImageDraw.Draw(image)
  draw.rectangle((0, 220, side, side), fill='#7bc67b')
  draw.ellipse((90, 60, 210, 240), fill='#ffcc99', outline='black', width=4)
  draw.ellipse((120, 110, 140, 130), fill='black')
  draw.ellipse((165, 110, 185, 130), fill='black')
  draw.arc((120, 140, 185, 200), 20, 160, fill='black', width=4)
  return image


def encoded(image: Image.Image, kind: str = 'PNG') -> bytes:
  buffer = io.BytesIO()
  image.save(buffer, kind)
  return buffer.getvalue()


def site(folder: pathlib.Path) -> str:
  """The page of bread, one of text alone, one that is none."""
  files = folder / 'files'
  files.mkdir()
  mix, rise, bake = photos(3)
  small = ImageEnhance.Brightness(mix.resize((240, 160))).enhance(1.05)
  noise = np.random.default_rng(0).integers(0, 255, (60, 400, 3), np.uint8)
  for name, image in {'mix 1': mix, 'again': small, 'rise': rise, 'bake': bake,
                      'wide': Image.fromarray(noise), 'ad': rise, 'foot': mix}.items():
    image.save(files / f'{name}.jpg', quality=95)
  for name, image in {'share': bake.resize((20, 20)), 'code': code(), 'app': interface()}.items():
    image.save(files / f'{name}.png')
  (folder / 'bread.html').write_text(BREAD)
  (folder / 'alone.html').write_text(ALONE)
  (folder / 'none.html').write_bytes(b'')
  (folder / 'sources.jsonl').write_text(json.dumps(dict(
      file='bread.html', url=URL, licence='CC-BY-SA-4.0', images={
          'https://cdn.example/rise': 'files/rise.jpg',
          'https://cdn.example/banner/1.jpg': 'files/ad.jpg'})))
  return str(folder)
