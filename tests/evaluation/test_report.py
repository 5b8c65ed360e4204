"""The report from what runs leave behind: the summary's keys and a page that needs nothing else."""

import base64
import html
import io
import json
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from etils import epath
from PIL import Image

from jaxgen.config import base_config
from jaxgen.config import to_json
from jaxgen.core.errors import UserError
from jaxgen.core.image_files import to_png
from jaxgen.data.sample import Sample
from jaxgen.data.shapes import geneval
from jaxgen.evaluation import charts
from jaxgen.evaluation import evaluate
from jaxgen.evaluation import page
from jaxgen.evaluation.report import write_report
from jaxgen.evaluation.shapes.cases import make_cases
from jaxgen.sampling.jobs import save_results
from jaxgen.sampling.request import Request

TABLE = {task: 0.5 for task in geneval.TASKS} | {'overall': 0.5}
CAPTION = 'a photo of a <red> circle'
VOID = {'meta', 'img', 'br', 'line', 'path'}  # tags without an end


def write_run(folder, steps: int, began: float) -> None:
  folder.mkdir(parents=True)
  (folder / 'config.json').write_text(to_json(base_config()))
  os.utime(folder / 'config.json', (began, began))
  lines = [dict(step=step, loss=3.0 / step, images_per_second=20.0, data_wait=0.03,
                goodput=0.5 + step / 100) for step in range(1, steps + 1)]
  (folder / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))


def write_evaluation(folder) -> None:
  (folder / 'samples/evaluation').mkdir(parents=True)
  (folder / 'samples/evaluation/0000.png').write_bytes(to_png(np.full((8, 8, 3), 7, np.uint8)))
  sample = dict(task='colors', caption=CAPTION, correct=False, file='samples/evaluation/0000.png')
  (folder / 'evaluation.json').write_text(json.dumps(dict(score=TABLE, samples=[sample])))
  chance = {task: 0.0 for task in TABLE}
  (folder / 'evaluation_untrained.json').write_text(json.dumps(dict(score=chance, samples=[])))


@pytest.fixture
def finished(tmp_path):
  """A folder as the quickstart leaves it; neither names nor dates sort like the stages."""
  root = tmp_path / 'quickstart'
  write_run(root / 'pretrain', 30, began=3000)  # begun first, but resumed since
  write_run(root / 'finetune', 20, began=2000)
  write_evaluation(root / 'finetune')
  (root / 'export/denoiser').mkdir(parents=True)
  (root / 'export/denoiser/config.json').write_text('{"_class_name": "Flux"}')
  (root / 'export/denoiser/model.safetensors').write_bytes(b'12 and more')
  (root / 'timings.jsonl').write_text('{"stage": "pretrain", "seconds": 60}\n'
                                      '{"stage": "finetune", "seconds": 41}\n')
  return root


class Checker(HTMLParser):
  """Collects what a page refers to and whether its tags close."""

  def __init__(self):
    super().__init__()
    self.open, self.links, self.images = [], [], []

  def handle_starttag(self, tag, attrs):
    attrs = dict(attrs)
    if tag not in VOID:
      self.open.append(tag)
    if tag == 'img':
      self.images.append(attrs['src'])
    self.links += [value for name, value in attrs.items() if name in ('href', 'src')]

  def handle_startendtag(self, tag, attrs):
    assert tag in VOID and 'href' not in dict(attrs)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag


def test_summary(finished):
  write_report(str(finished))
  summary = json.loads((finished / 'summary.json').read_text())
  assert summary['score'] == TABLE
  assert set(summary['score']) == {*geneval.TASKS, 'overall'}
  assert summary['score_untrained']['overall'] == 0.0
  assert summary['seconds'] == 101
  assert list(summary['steps'].items()) == [('pretrain', 30), ('finetune', 20)]
  assert summary['goodput'] == {'pretrain': 0.8, 'finetune': 0.7}
  assert summary['export'] == {'denoiser': {'class': 'Flux', 'bytes': 11}}


def test_page_stands_alone(finished):
  assert write_report(str(finished)) == str(finished / 'report.html')
  text = (finished / 'report.html').read_text()
  checker = Checker()
  checker.feed(text)
  assert not checker.open
  assert len(checker.images) == 1
  assert all(link.startswith('data:image/png;base64,') for link in checker.links)
  assert 'a photo of a &lt;red&gt; circle' in text and CAPTION not in text
  assert '✗ wrong' in text and '✓ right' not in text
  assert text.index('pretrain: loss') < text.index('finetune: loss')
  assert text.count('<svg') == 2
  assert '<td>20.0</td><td>3%</td><td>80%</td><td>1 min 00 s</td>' in text
  assert '1 min 41 s' in text and '50</b>optimizer steps' in text


def test_losses_by_source_say_which_is_easy(finished):
  """The mean of the last quarter, in which a source may be logged now and then only."""
  lines = [{'step': step, 'loss': 1.0, 'flow_matching/loss_source/hard': 9.0 if step < 16 else 0.4,
            **({'flow_matching/loss_source/easy': step / 100} if step % 2 else {})}
           for step in range(1, 21)]
  (finished / 'finetune/metrics.jsonl').write_text(''.join(json.dumps(line) + '\n'
                                                           for line in lines))
  write_report(str(finished))
  losses = json.loads((finished / 'summary.json').read_text())['losses']
  assert list(losses['finetune']) == ['easy', 'hard'] and losses['pretrain'] == {}
  assert losses['finetune'] == pytest.approx(dict(easy=0.18, hard=0.4))
  assert '<td>easy 0.1800, hard 0.4000</td>' in (finished / 'report.html').read_text()


def test_drawn_tasks_are_shown_with_what_was_given_and_expected(tmp_path, tiny_config):
  """An evaluation as it is written: every picture is as wide as its columns, with its verdict."""
  folder = tmp_path / 'run'
  write_run(folder, 5, began=1000)
  cases = make_cases(tiny_config, 'edit,control,storyboard,session', prompts=1, images=1, seed=0)
  truth = [list(case.expected) for case in cases]
  drawn = [truth[0], [np.flip(image, axis=1) for image in truth[1]], *truth[2:]]
  marks = [case.mark(images) for case, images in zip(cases, drawn, strict=True)]
  shown = list(zip(cases, drawn, marks, strict=True))
  samples = evaluate._save(epath.Path(folder / 'samples/evaluation'), shown)
  marked = [(case.task, found) for case, _, found in shown]
  (folder / 'evaluation.json').write_text(json.dumps(dict(
      score=evaluate.accuracies(marked), details=evaluate._details(marked),
      copied=evaluate._copied(cases), samples=samples)))
  write_report(str(folder))
  text = (folder / 'report.html').read_text()
  checker = Checker()
  checker.feed(text)
  assert not checker.open and 'what was drawn over what was expected' in text
  figures = re.findall(r'<figure style="width: (\d+)px"><img alt="" src="data:image/png;base64,'
                       r'([^"]+)"><figcaption>(.*?)<br>(.*?)</figcaption>', text)
  assert len(figures) == len(cases)
  for (width, data, caption, _), case, sample in zip(figures, cases, samples, strict=True):
    columns = len(case.inputs) + len(case.expected)
    assert int(width) == page.TILE * columns and sample['columns'] == columns
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert picture.size == (columns * 18 - 2, 2 * 18 - 2)
    assert html.unescape(caption) == case.text
  verdicts = [verdict for *_, verdict in figures]
  assert ['right' in verdict for verdict in verdicts] == [True, False, True, True]
  assert '(cells' in verdicts[1]
  values = ('1.00', '0.00', '1.00', '1.00', '–', '–', '–', '1.00')  # right, copied, marks
  assert '<td>edit</td>' + ''.join(f'<td>{value}</td>' for value in values) in text
  assert '<td>control</td><td>0.' in text


def test_what_else_was_measured_is_shown(finished):
  """Evaluations with a given role, the fit, held-out samples, the table of parameters."""
  folder = finished / 'finetune'
  (folder / 'evaluation_source.json').write_text((folder / 'evaluation.json').read_text())
  picture = (folder / 'samples/evaluation/0000.png').read_bytes()
  for name in ('fit', 'held_out'):
    (folder / f'samples/{name}.png').write_bytes(picture)
  (folder / 'fit.json').write_text(json.dumps(
      dict(images=16, psnr=22.84, psnr_min=21.7, psnr_shuffled=10.2)))
  (folder / 'held_out.json').write_text(json.dumps(dict(table={'views: pan': dict(
      psnr=20.0, copied=15.5, better=0.75, outputs=64)})))
  (folder / 'parameters.txt').write_text('| Group |\n\n| Path <b> |\n')
  write_report(str(finished))
  text = (finished / 'report.html').read_text()
  checker = Checker()
  checker.feed(text)
  assert not checker.open and len(checker.images) == 4
  assert 'Samples of finetune, held-out prompts, source' in text
  assert '<td>16</td><td>22.8 dB</td><td>21.7 dB</td><td>10.2 dB</td>' in text
  assert '<td>views: pan</td><td>20.0 dB</td><td>15.5 dB</td><td>75%</td><td>64</td>' in text
  assert '<pre>| Group |</pre>' in text and '<pre>| Path &lt;b&gt; |\n</pre>' in text


def test_a_single_unfinished_run(tmp_path):
  write_run(tmp_path / 'run', 5, began=1000)
  write_report(str(tmp_path / 'run'))
  summary = json.loads((tmp_path / 'run/summary.json').read_text())
  assert summary == dict(score=None, score_untrained=None, seconds=None, stage_seconds={},
                         steps={'run': 5}, goodput={'run': 0.55}, losses={'run': {}},
                         validation={'run': {}}, export=None)


def test_order_without_timings(finished):
  (finished / 'timings.jsonl').unlink()
  write_report(str(finished))
  summary = json.loads((finished / 'summary.json').read_text())
  assert list(summary['steps']) == ['finetune', 'pretrain']


@pytest.mark.parametrize('file, fix', [
    ('finetune/metrics.jsonl', ''), ('timings.jsonl', ''),
    ('finetune/config.json', 'copy it back'), ('finetune/evaluation.json', 'jaxgen evaluate'),
    ('finetune/evaluation_untrained.json', 'jaxgen evaluate'),
    ('finetune/fit.json', 'jaxgen evaluate'), ('finetune/held_out.json', 'jaxgen evaluate'),
    ('export/denoiser/config.json', 'export again')])
def test_damaged_files_are_left_out_or_named(finished, file, fix):
  """Cut at any length, filled with zeros, and of another content."""
  (finished / 'finetune/fit.json').write_text(json.dumps(
      dict(images=1, psnr=2.0, psnr_min=1.0, psnr_shuffled=1.0)))
  (finished / 'finetune/held_out.json').write_text(json.dumps(dict(table={})))
  whole = (finished / file).read_bytes()
  cuts = [whole[:length] for length in range(0, len(whole) - 1, max(len(whole) // 20, 1))]
  for data in (*cuts, bytes(len(whole)), b'{}', b'[]', b'"a"\n', b'\xff\n'):
    if data == b'{}' and 'export' in file:  # a class without a name
      continue
    (finished / file).write_bytes(data)
    if fix:
      with pytest.raises(UserError, match=f'^{finished / file}: .*{fix}|^config.json = '):
        write_report(str(finished))
    else:
      write_report(str(finished))
  (finished / file).write_bytes(whole)
  (finished / 'finetune/samples/evaluation/0000.png').unlink()
  write_report(str(finished))


def test_validations_are_curves_and_images_over_time(tmp_path):
  """Ten validations of two weights; of those with images six are shown, the last one among them."""
  run = tmp_path / 'run'
  write_run(run, 20, began=1000)
  lines = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
  for line in lines[1::2]:
    line |= {f'validation/{weights}/loss': 2 / line['step'] for weights in ('ema', 'params')}
    image = np.full((8, 8, 3), line['step'], np.uint8)
    request = Request(Sample(CAPTION, ()), 0, 0, {})
    save_results([request], [[image]], str(run / f'samples/validation/{line["step"]:06}_ema'))
  (run / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
  text = open(write_report(str(run))).read()
  checker = Checker()
  checker.feed(text)
  assert not checker.open and len(checker.images) == 6
  assert text.count('<h3>ema/loss, last 0.1</h3>') == text.count('params/loss, last 0.1') == 1
  steps = [int(step) for step in re.findall(r'<th>(\d+)</th>', text)]
  assert len(steps) == 6 and steps[-1] == 20 and html.escape(CAPTION) in text
  shown = [np.asarray(Image.open(io.BytesIO(base64.b64decode(link.partition(',')[2]))))[0, 0, 0]
           for link in checker.links]
  assert shown == steps
  summary = json.loads((run / 'summary.json').read_text())
  assert summary['validation']['run'] == {'ema/loss': 0.1, 'params/loss': 0.1}
  (run / 'samples/validation/000020_ema/results.json').write_text('[1]')
  with pytest.raises(UserError, match='is no list of drawn images; remove its folder'):
    write_report(str(run))


def test_no_run(tmp_path):
  with pytest.raises(UserError, match='holds no metrics.jsonl'):
    write_report(str(tmp_path))


def curve_points(svg: str) -> list[tuple[float, float]]:
  line = re.search(r'class="raw" d="([^"]+)"', svg).group(1)
  return [tuple(map(float, point[1:].split(','))) for point in line.split()]


def test_curve_reaches_its_corners():
  points = curve_points(charts.line_chart([1, 2, 3], [4.0, 2.0, 2.5], 'loss'))
  bottom, right = charts.HEIGHT - charts.BOTTOM, charts.WIDTH - charts.RIGHT
  assert points[0] == (charts.LEFT, charts.TOP)
  assert points[1][1] == bottom
  assert points[2] == (right, bottom - 0.25 * (bottom - charts.TOP))


def test_curve_leaves_out_what_is_not_finite():
  assert len(curve_points(charts.line_chart([1, 2, 3], [4.0, float('nan'), None], 'x'))) == 1
  assert 'nothing was logged' in charts.line_chart([1], [float('inf')], 'x')


def test_wide_range_is_logarithmic():
  points = curve_points(charts.line_chart([1, 2, 3], [100.0, 10.0, 1.0], 'loss'))
  heights = [height for _, height in points]
  assert heights[1] == pytest.approx((heights[0] + heights[2]) / 2)


def test_long_curves_are_thinned():
  count = 10 * charts.POINTS
  points = curve_points(charts.line_chart(range(count), [1.0] * count, 'loss'))
  assert len(points) == charts.POINTS
