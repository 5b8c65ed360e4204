"""Times recipes beside plain scripts that do the same work, one worker beside two, and memory.

Videos are panned noise with cuts, written as H.264 into a temporary folder. The plain script is a
loop over PyAV, PySceneDetect and OpenCV: cuts, first and last frame of each clip as JPEG, flow
between small frames. The recipe is configs/curation/video_transitions.py, its captions replayed.

  python tools/bench_curation.py                    # clips per second of CPU, of both
  python tools/bench_curation.py --pages=120        # pages per second of CPU, of both
  python tools/bench_curation.py --workers          # wall time by Ray, one worker and two
  python tools/bench_curation.py --memory           # the largest process over 1,000 videos

Rates are over CPU time, which a busy machine changes less than wall time; workers are compared by
wall time, from the first chunk to the last, and need two cores of their own.
"""

import argparse
import fractions
import json
import os
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
import time
import urllib.parse

import av
import cv2
import numpy as np
import scenedetect
import trafilatura
from timing import machine

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
RATE = 24
EXTRACTION = '''
from jaxgen.curation import pages, readers
from jaxgen.curation.recipe import Recipe, Stage
from jaxgen.data.sample import pair

def sample(record):
  return record.having(sample=pair(record.id, record['images'][0], record['markdown']))

def get_recipe():
  return Recipe(readers.files(*readers.PAGES), [
      Stage(pages.main_content), Stage(pages.cleaned), Stage(sample)], chunk=64)
'''


def main() -> None:
  """Prints what the flags ask for."""
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--videos', type=int, default=8)
  parser.add_argument('--seconds', type=float, default=20.0, help='of a video')
  parser.add_argument('--size', default='360x640', help='HxW')
  parser.add_argument('--pages', type=int, default=0, metavar='N')
  parser.add_argument('--workers', action='store_true')
  parser.add_argument('--memory', action='store_true')
  args = parser.parse_args()
  height, width = map(int, args.size.split('x'))
  print(machine())
  with tempfile.TemporaryDirectory() as folder:
    place = pathlib.Path(folder)
    if args.pages:
      compare_pages(place, args.pages)
      return
    count, seconds = (1000, 6.0) if args.memory else (args.videos, args.seconds)
    if args.memory:
      height, width = 96, 128
    write_videos(place / 'videos', count, seconds, height, width)
    if args.memory:
      usage = curated(place, 'memory')
      print(f'{count} videos: the largest process had {usage.ru_maxrss / 2**20:.2f} GiB')
    elif args.workers:
      one, two = (steady_rate(place, workers) for workers in (1, 2))
      print(f'one worker {one:.2f} chunks/s, two {two:.2f}: {two / one:.2f}x')
    else:
      compare(place)


def compare(place: pathlib.Path) -> None:
  """Both ways over the same files, in turns."""
  rows = []
  for turn in range(3):
    before = time.process_time()
    plain = sum(plainly(path) for path in sorted((place / 'videos').glob('*.mp4')))
    plain_seconds = time.process_time() - before
    clips, seconds = in_process(place, f'turn{turn}')
    assert clips == plain, (clips, plain)
    rows.append((clips / seconds, plain / plain_seconds))
  ours, theirs = np.median(np.array(rows), axis=0)
  print(f'{clips} clips: jaxgen {ours:.2f} clips/s of CPU, plain script {theirs:.2f} '
        f'({ours / theirs:.2f}x)')


def compare_pages(place: pathlib.Path, count: int) -> None:
  """Both ways over the same pages, in turns; the first turn also imports and is not counted."""
  sys.path.insert(0, str(REPOSITORY))
  from jaxgen.curation.commands import curate
  from jaxgen.curation.engine import Job
  from tests.curation import pages_of
  from tests.curation.test_recipes import bread_answers
  folder, models = place / 'pages', []
  folder.mkdir()
  pages_of.site(folder)
  size = write_pages(folder, count)
  for name, answers in bread_answers().items():
    (place / name).write_text('\n'.join(map(json.dumps, answers)))
    models.append((name, f'replay:{place / name}'))
  (place / 'extraction.py').write_text(EXTRACTION)
  recipes = {'extraction': (place / 'extraction.py', ()), 'web_dialogues': (
      REPOSITORY / 'configs/curation/web_dialogues.py', tuple(models))}
  rows = []
  for turn in range(4):
    before = time.process_time()
    for path in sorted(folder.glob('*.html')):
      assert plain_page(path) >= 2, path
    rates = [count / (time.process_time() - before)]
    for name, (recipe, told) in recipes.items():
      before = time.process_time()
      tally = curate(Job(str(recipe), str(folder), str(place / f'{name}{turn}'), told, 'CC0-1.0'))
      rates.append(count / (time.process_time() - before))
      assert sum(tally.licences.values()) == count, tally.licences
    rows.append(rates)
  plain, *ours = np.median(np.array(rows[1:]), axis=0)
  print(f'{count} pages of {size / 1024:.0f} KiB: plain script {plain:.1f} pages/s of CPU')
  for name, rate in zip(recipes, ours):
    print(f'{name}: jaxgen {rate:.1f} pages/s of CPU ({rate / plain:.2f}x)')


def write_pages(folder: pathlib.Path, count: int) -> int:
  """Copies of the page of the tests inside what sites put around an article; bytes of each."""
  links = ''.join(f'<li class="menu-item"><a href="/topic/{number}">Topic {number}</a></li>'
                  for number in range(200))
  rules = '\n'.join(f'.part-{number} {{ margin: {number}px; color: #{number:06x}; }}'
                    for number in range(600))
  page = (folder / 'bread.html').read_text()
  page = page.replace('</head>', f'<style>{rules}</style><script>var x = {[*range(6000)]};</script>'
                      '</head>').replace('</nav>', f'<ul>{links}</ul></nav>')
  facts = (folder / 'sources.jsonl').read_text()
  for file in folder.glob('*.html'):
    file.unlink()
  names = [f'{number:05d}.html' for number in range(count)]
  for name in names:
    (folder / name).write_text(page)
  (folder / 'sources.jsonl').write_text('\n'.join(
      facts.replace('bread.html', name) for name in names))
  return len(page)


def plain_page(path: pathlib.Path) -> int:
  """The Markdown of a page and the images that it shows, without jaxgen; the number of images."""
  text = trafilatura.extract(
      trafilatura.load_html(path.read_bytes()), output_format='markdown', include_images=True,
      include_formatting=True, include_tables=True, include_links=False, include_comments=False)
  found = 0
  for address in re.findall(r'!\[[^\]]*\]\(([^)\s]+)', text or ''):
    file = path.parent / urllib.parse.unquote(urllib.parse.urlsplit(address).path.lstrip('/'))
    if file.is_file():
      found += bool(file.read_bytes())
  return found


def steady_rate(place: pathlib.Path, workers: int) -> float:
  """Chunks per second by Ray from the first one that is done to the last, without its start."""
  curated(place, f'ray{workers}', '--engine=ray', f'--workers={workers}')
  done = sorted(file.stat().st_mtime for file in (place / f'ray{workers}' / 'chunks').iterdir())
  return (len(done) - 1) / (done[-1] - done[0])


def in_process(place: pathlib.Path, name: str) -> tuple[int, float]:
  """Clips that the recipe decodes, and seconds of CPU."""
  from jaxgen.curation.commands import curate
  from jaxgen.curation.engine import Job
  before = time.process_time()
  tally = curate(job_of(place, name, Job))
  return tally.stages[2].left, time.process_time() - before


def job_of(place: pathlib.Path, name: str, kind):
  """The recipe over the videos, in small chunks, with an answer for every caption."""
  text = (REPOSITORY / 'configs/curation/video_transitions.py').read_text()
  recipe = place / 'recipe.py'
  recipe.write_text(text.replace('chunk=64', 'chunk=2'))
  answers = place / 'answers.jsonl'
  answers.write_text(json.dumps(dict(reply='the camera pans')))
  return kind(str(recipe), str(place / 'videos'), str(place / name),
              (('captioner', f'replay:{answers}'),), 'CC0-1.0')


def curated(place: pathlib.Path, name: str, *flags: str) -> resource.struct_rusage:
  """Resources of the command in a process of its own."""
  job = job_of(place, name, lambda *words: words)
  subprocess.run([sys.executable, '-m', 'jaxgen.cli', 'curate', job[0], f'--in={job[1]}',
                  f'--out={job[2]}', f'--model=captioner={job[3][0][1]}', *flags],
                 cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL,
                 env={**os.environ, 'PYTHONPATH': str(REPOSITORY)})
  return resource.getrusage(resource.RUSAGE_CHILDREN)


def plainly(path: pathlib.Path) -> int:
  """What the recipe does to one video, without jaxgen; the number of clips."""
  finder = scenedetect.AdaptiveDetector(min_scene_len=RATE // 2)
  cuts, times = [], []
  with av.open(str(path)) as container:
    stream = container.streams.video[0]
    stream.thread_type = 'AUTO'
    scale = 192 / max(stream.width, stream.height)
    for number, frame in enumerate(container.decode(stream)):
      small = frame.to_ndarray(format='bgr24', width=round(scale * frame.width),
                               height=round(scale * frame.height))
      cuts += finder.process_frame(scenedetect.FrameTimecode(number, float(RATE)), small)
      times.append(float(frame.time))
  edges = [0.0, *(times[code.frame_num] for code in cuts), times[-1] + 1 / RATE]
  spans = [(left, min(left + 5.0, end)) for start, end in zip(edges, edges[1:])
           for left in np.arange(start, end - 1e-6, 5.0)]
  return sum(one_clip(path, *span) for span in spans if span[1] - span[0] >= 2.5)


def one_clip(path: pathlib.Path, start: float, end: float) -> bool:
  """First and last frame as JPEG, and the flow between frames of every half second."""
  flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
  first = last = None
  small = []
  with av.open(str(path)) as container:
    stream = container.streams.video[0]
    stream.thread_type = 'AUTO'
    container.seek(int(start / stream.time_base), stream=stream, backward=True)
    for frame in container.decode(stream):
      if frame.time < start - 1e-6:
        continue
      if frame.time >= end - 1e-6:
        break
      first, last = first or frame, frame
      if not small or frame.time - small[-1][0] >= 0.49:
        scale = 256 / max(frame.width, frame.height)
        small.append((frame.time, frame.to_ndarray(
            format='gray', width=round(scale * frame.width), height=round(scale * frame.height))))
  for frame in (first, last):
    cv2.imencode('.jpg', frame.to_ndarray(format='bgr24'), [cv2.IMWRITE_JPEG_QUALITY, 95])
  for (_, earlier), (_, later) in zip(small, small[1:]):
    np.linalg.norm(flow.calc(earlier, later, None), axis=-1).mean()
  return True


def write_videos(folder: pathlib.Path, count: int, seconds: float, height: int, width: int) -> None:
  """Panned noise with a cut about every eight seconds; a few files that the others link to."""
  folder.mkdir()
  for number in range(count):
    path = folder / f'{number:04d}.mp4'
    if number >= 8:
      path.hardlink_to(folder / f'{number % 8:04d}.mp4')
      continue
    rng = np.random.default_rng(number)
    scenes = [cv2.resize(rng.integers(0, 255, (height // 16, width // 4, 3), np.uint8),
                         (4 * width, height), interpolation=cv2.INTER_CUBIC)
              for _ in range(int(seconds // 8) + 1)]
    with av.open(str(path), 'w') as container:
      stream = container.add_stream('libx264', RATE, options=dict(preset='ultrafast'))
      stream.width, stream.height, stream.pix_fmt = width, height, 'yuv420p'
      stream.codec_context.time_base = fractions.Fraction(1, RATE)
      for index in range(round(seconds * RATE)):
        left = 2 * index % (3 * width)
        pixels = np.ascontiguousarray(scenes[index // (8 * RATE)][:, left:left + width])
        frame = av.VideoFrame.from_ndarray(pixels, format='rgb24')
        frame.pts = index
        container.mux(stream.encode(frame))
      container.mux(stream.encode(None))


if __name__ == '__main__':
  main()
