"""The benchmarks by name. Variants whose scores must not be mixed have names of their own."""

import functools

from jaxgen.core.errors import user_error
from jaxgen.evaluation.benchmarks import editing
from jaxgen.evaluation.benchmarks import embeddings
from jaxgen.evaluation.benchmarks import interleaved
from jaxgen.evaluation.benchmarks import subjects
from jaxgen.evaluation.benchmarks import text_to_image as t2i
from jaxgen.evaluation.benchmarks.base import Benchmark
from jaxgen.evaluation.benchmarks.base import each
from jaxgen.evaluation.benchmarks.base import Item
from jaxgen.evaluation.benchmarks.files import Data
from jaxgen.evaluation.benchmarks.tallies import means_of_all

_GENEVAL = dict(zip((*t2i.TAGS, 'overall'), (.98, .94, .81, .91, .85, .79, .88)))
_IOMM = dict(zip((*t2i.TAGS, 'overall'), (.99, .92, .83, .94, .91, .75, .89)))
_OMNICONTEXT = dict(zip((*subjects.OMNICONTEXT, 'overall'),
                        (7.94, 7.77, 6.75, 7.57, 8.20, 6.90, 6.81, 7.37, 7.41)))
_ASPECTS = dict(zip((*interleaved.ASPECTS, 'overall'), (4.28, 3.65, 3.70, 3.69, 4.06, 3.87)))
_COMM = dict(zip((*interleaved.COMM[:3], 'completeness', 'image_quality'),
                 (9.22, 9.22, 9.24, 9.66, 9.53)))


def _wise(name: str, ranges, judge: str, legacy: bool, papers) -> Benchmark:
  return Benchmark(
      name, functools.partial(t2i.wise, ranges=ranges), t2i.wise_measures,
      functools.partial(t2i.wise_summary, ranges=ranges), judge,
      functools.partial(t2i.wise_ask, legacy=legacy), papers=papers)


def _geneval(name: str, file: str, papers) -> Benchmark:
  return Benchmark(name, functools.partial(t2i.geneval, file=file), t2i.geneval_measures,
                   t2i.geneval_summary, 'Mask2Former Swin-S, CLIP ViT-L/14', scores='detections',
                   papers=papers)


def _gedit(language: str, papers) -> Benchmark:
  return Benchmark(f'gedit-{language}', functools.partial(editing.gedit, language=language),
                   editing.gedit_measures, editing.gedit_summary, 'gpt-4.1', editing.gedit_ask,
                   papers=papers)


def _dreambench(name: str, papers) -> Benchmark:
  return Benchmark(
      f'dreambench-{name}', functools.partial(
          subjects.dreambench, file=f'dreambench_{name}ip.json'), each,
      means_of_all, 'DINO ViT-S/16, CLIP ViT-B/32', scores='embeddings',
      embed=embeddings.subjects, papers=papers)


_ALL = (
    _geneval('geneval', 'evaluation_metadata.jsonl',
             {'Query-Kontext': _GENEVAL, 'IOMM-B 512': _IOMM, 'DuetGen': dict(
                 counting=.94, position=.84, color_attr=.80, overall=.88)}),
    _geneval('geneval-long', 'evaluation_metadata_long.jsonl', {}),
    Benchmark('geneval2', t2i.geneval2, t2i.geneval2_measures, t2i.geneval2_summary,
              'Qwen3-VL-8B-Instruct', t2i.geneval2_ask, index=t2i.geneval2_index),
    Benchmark('dpg', t2i.dpg, t2i.dpg_measures, t2i.dpg_summary, 'mPLUG VQA large COCO',
              t2i.dpg_ask, papers={'IOMM-B 512': dict(overall=82.95)}),
    _wise('wise-legacy', t2i.LEGACY, 'gpt-4o-2024-05-13', True, {'IOMM-B 512': dict(overall=.55)}),
    _wise('wise-verified', t2i.VERIFIED, 'Qwen3.5-35B-A3B', False, {}),
    Benchmark('imgedit', editing.imgedit, editing.imgedit_measures, editing.imgedit_summary,
              'gpt-4o', editing.imgedit_ask, papers={
                  'iMontage': dict(action=4.48, overall=4.11), 'IOMM': dict(overall=2.82),
                  'DuetGen': dict(remove=4.71, replace=4.69, add=4.53, overall=4.19)}),
    _gedit('en', {'iMontage': {'G_SC': 7.21, 'G_PQ': 7.80, 'G_O': 6.94, 'motion_change/SC': 5.25,
                               'motion_change/PQ': 8.43, 'motion_change/O': 5.53},
                  'Query-Kontext': dict(G_SC=8.36, G_PQ=7.37, G_O=7.66),
                  'DuetGen': dict(G_SC=7.68, G_PQ=7.76, G_O=7.35)}),
    _gedit('cn', {'Query-Kontext': dict(G_SC=8.39, G_PQ=7.35, G_O=7.65)}),
    Benchmark('omnicontext', subjects.omnicontext, subjects.omnicontext_measures,
              subjects.omnicontext_summary, 'gpt-4.1', subjects.omnicontext_ask,
              papers={'iMontage': _OMNICONTEXT}),
    _dreambench('single', {'Query-Kontext': dict(dino=.786, clip_i=.858, clip_t=.307)}),
    _dreambench('multi', {'Query-Kontext': dict(dino=.532, clip_i=.731, clip_t=.336)}),
    Benchmark('dreambench++', subjects.dreambench_plus, subjects.dreambench_plus_measures,
              subjects.dreambench_plus_summary, 'gpt-4o-2024-05-13', subjects.dreambench_plus_ask),
    Benchmark('kris', editing.kris, editing.kris_measures, editing.kris_summary,
              'gpt-4o-2024-11-20', editing.kris_ask),
    Benchmark('rise', editing.rise, editing.rise_measures, editing.rise_summary,
              'gpt-4.1-2025-04-14', editing.rise_ask),
    Benchmark('comm', interleaved.comm, interleaved.comm_measures, interleaved.comm_summary,
              'gpt-4o', interleaved.comm_ask, dialogue=True, papers={'DuetGen': _COMM}),
    Benchmark('interleavedbench', interleaved.interleavedbench, each,
              interleaved.aspects_summary, 'gpt-4o', interleaved.interleavedbench_ask,
              dialogue=True, papers={'DuetGen': _ASPECTS}),
    Benchmark('opening', interleaved.opening, each,
              interleaved.aspects_summary, 'gpt-4o', interleaved.opening_ask, dialogue=True),
    Benchmark('how-to', interleaved.how_to, each,
              interleaved.aspects_summary, 'gpt-5', interleaved.how_to_ask, dialogue=True,
              papers={'DuetGen, How-to-500': dict(zip(
                  interleaved.HOW_TO, (3.39, 4.22, 4.21, 4.08, 4.18))),
                      'DuetGen, Cooking-200': dict(zip(
                          interleaved.HOW_TO, (3.61, 4.70, 3.92, 4.78, 4.75)))}),
    Benchmark('storyboard', interleaved.storyboard, each,
              means_of_all, 'gpt-4o', interleaved.storyboard_ask, embed=embeddings.storyboard,
              masked=True,
              papers={'iMontage': {
                  'identity': 7.909, 'identity/dino': .585, 'identity/clip': .690,
                  'consistency': 9.556, 'consistency/dino': .615, 'consistency/clip': .745}}),
)
BENCHMARKS = {benchmark.name: benchmark for benchmark in _ALL}
# Where the files of a benchmark are to be had.
ORIGINS = {
    'geneval': 'github.com/djghosh13/geneval, prompts',
    'geneval-long': 'github.com/ByteDance-Seed/Bagel, eval/gen/geneval/prompts',
    'geneval2': 'github.com/facebookresearch/GenEval2',
    'dpg': 'github.com/TencentQQGYLab/ELLA, dpg_bench',
    'wise-legacy': 'github.com/PKU-YuanGroup/WISE, WISE_legacy/data',
    'wise-verified': 'github.com/PKU-YuanGroup/WISE, data',
    'imgedit': 'github.com/PKU-YuanGroup/ImgEdit, Benchmark/Basic, with its images as singleturn/',
    'gedit-en': 'huggingface.co/datasets/stepfun-ai/GEdit-Bench',
    'gedit-cn': 'huggingface.co/datasets/stepfun-ai/GEdit-Bench',
    'omnicontext': 'huggingface.co/datasets/OmniGen2/OmniContext',
    'dreambench-single': 'github.com/bytedance/UNO, datasets, with the images of '
                         'github.com/google/dreambooth as dreambooth/',
    'dreambench-multi': 'github.com/bytedance/UNO, datasets, with the images of '
                        'github.com/google/dreambooth as dreambooth/',
    'dreambench++': 'huggingface.co/datasets/yuangpeng/dreambench_plus',
    'kris': 'github.com/ByteDance-Seed/Bagel, eval/gen/kris, with the images of '
            'huggingface.co/datasets/Liang0223/KRIS_Bench',
    'rise': 'huggingface.co/datasets/PhoenixZ/RISEBench',
    'comm': 'github.com/HKUST-LongGroup/CoMM, as test.json (docs/evaluation.md)',
    'interleavedbench': 'huggingface.co/mqliu/InterleavedBench',
    'opening': 'github.com/LanceZPF/OpenING, OpenING-benchmark',
    'how-to': 'your own prompts, as prompts.jsonl (docs/evaluation.md)',
    'storyboard': 'your own prompts, as prompts.jsonl (docs/evaluation.md)'}


def benchmark(name: str) -> Benchmark:
  """The benchmark of that name.

  Raises:
    UserError: there is none.
  """
  if name not in BENCHMARKS:
    raise user_error('--benchmark', name, f'use one of {", ".join(BENCHMARKS)}')
  return BENCHMARKS[name]


def read_items(benchmark: Benchmark, folder: str, images: str) -> list[Item]:
  """The items of a benchmark.

  Args:
    benchmark: whose files are read.
    folder: of the files; '' is ``data/NAME``.
    images: where images that come inside of tables are written to.

  Raises:
    UserError: files that are missing, or not those of the benchmark.
  """
  name = benchmark.name
  return benchmark.read(Data(folder or f'data/{name}', name, ORIGINS[name], images))
