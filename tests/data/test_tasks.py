"""Tasks: parts in, parts out; droppings at random; the dropped sample is the branch of guidance."""

import dataclasses
import math

import pytest

from jaxgen.config import base_config
from jaxgen.config.schema import SOURCE_TASKS
from jaxgen.core.errors import UserError
from jaxgen.data import tasks
from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample
from jaxgen.systems import parts as system_parts

DRAWS = 20_000


@pytest.fixture
def data():
  config = base_config()
  config.data.dropout.all = 0.0
  return config.data


def image(role, name, **more):
  return Part(role, image=name.encode(), loss=role == 'target', **more)


def text(words, role='user', loss=False):
  return Part(role, text=words, loss=loss)


def sample(*parts):
  return Sample('s', parts, origin='f.jsonl:3')


def brief(made):
  """Parts as (role, text or image)."""
  return [(part.role, part.image.decode() if part.is_image else part.text) for part in made.parts]


T, SRC, REF, CTX = (image('target', 't'), image('source', 's'), image('reference', 'r'),
                    image('context', 'c'))
RECONSTRUCT = 'Generate an image that is identical to the reference image:'
CASES = {
    'image': ([T], [('user', RECONSTRUCT), ('context', 't'), ('target', 't')]),
    'pair': ([text('a cat'), T], [('user', 'Generate an image: a cat'), ('target', 't')]),
    'caption': ([text('a cat'), T], [('context', 't'), ('user', 'Describe the image:'),
                                     ('assistant', ' a cat')]),
    'reconstruction': ([T], [('source', 't'), ('user', RECONSTRUCT), ('target', 't')]),
    'edit': ([SRC, CTX, text('red'), T], [('source', 's'), ('reference', 'c'), ('user', 'red'),
                                          ('target', 't')]),
    'transformation': ([SRC, text('turn'), T], [('reference', 's'), ('user', 'turn'),
                                                ('target', 't')]),
    'reference': ([REF, CTX, text('both'), T], [('reference', 'r'), ('reference', 'c'),
                                                ('user', 'both'), ('target', 't')]),
    'many_to_many': ([T, SRC, text('views'), T], [('source', 's'), ('user', 'views'),
                                                  ('target', 't'), ('target', 't')]),
    'dialogue': ([text('q'), T, text('a', 'assistant', True), CTX],
                 [('user', 'q'), ('target', 't')]),
    'conversation': ([CTX, text('q'), text('a', 'assistant', True)],
                     [('context', 'c'), ('user', 'q'), ('assistant', 'a')]),
}


def test_every_task_has_a_case():
  assert set(CASES) == set(tasks.TASKS) == set(SOURCE_TASKS) - {'auto'}


@pytest.mark.parametrize('task', CASES)
def test_parts_in_parts_out(task, data):
  given, wanted = CASES[task]
  made = tasks.prepare(sample(*given), task, data, 0, 0)
  assert brief(made) == wanted and made.task == task and made.origin == 'f.jsonl:3'
  losses = [part for part in made.parts if part.loss]
  assert losses and all(part.role in ('target', 'assistant') for part in losses)


def test_flags_of_what_conditions_itself(data):
  shown = tasks.worded(sample(T), 'image', data).parts[1]
  assert shown.maskable and shown.seen and not shown.clean and not shown.loss
  given = tasks.worded(sample(T), 'reconstruction', data).parts[0]
  assert given.seen and given.clean and not given.maskable


def test_braces_in_a_caption_are_text(data):
  made = tasks.worded(sample(text('{0} {caption}'), T), 'pair', data)
  assert made.parts[0].text == 'Generate an image: {0} {caption}'


@pytest.mark.parametrize('task, given, message', [
    ('image', [SRC], r"\['source'\]: task image needs an image of role target"),
    ('image', [T, T], '= 2: task image takes samples of exactly one target; use task many_to'),
    ('pair', [T], 'caption: missing, but task pair needs one; add it to sample s, or'),
    ('pair', [text('  '), T], 'caption: missing, but task pair needs one'),
    ('caption', [T], 'caption: missing, but task caption needs one'),
    ('edit', [REF, text('x'), T], r"\['reference', 'target'\]: task edit needs an image of role s"),
    ('edit', [SRC, T], 'caption: missing, but task edit needs one'),
    ('reference', [text('x'), T], 'task reference needs an image of role reference'),
    ('dialogue', [text('x')], 'task dialogue needs an image of role target'),
    ('many_to_many', [SRC, text('x')], 'task many_to_many needs an image of role target'),
    ('conversation', [text('x')], 'has no text with loss; give it an assistant text'),
    ('conversation', [text('x'), text('y', 'assistant', True), text('and then?')],
     r"parts\[2\].role = 'user': the dialogue ends in a turn of the user without the assistant's r"),
])
def test_what_a_task_lacks_names_the_record(task, given, message, data):
  with pytest.raises(UserError, match=rf'^f\.jsonl:3.*{message}') as caught:
    tasks.prepare(sample(*given), task, data, 0, 0)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('given, task', [
    ([T], 'image'), ([text('x'), T], 'pair'), ([SRC, text('x'), T], 'edit'),
    ([SRC, REF, text('x'), T], 'edit'), ([REF, text('x'), T], 'reference'),
    ([CTX, text('x'), T], 'reference'), ([SRC, text('x'), T, T], 'many_to_many'),
    ([text('x'), T, text('y', 'assistant')], 'dialogue'),
    ([CTX, text('x'), text('y', 'assistant', True)], 'conversation')])
def test_auto_reads_the_task_from_the_roles(given, task, data):
  assert tasks.kind_of(sample(*given)) == task
  assert tasks.prepare(sample(*given), 'auto', data, 0, 0).task == task


def test_a_dialogue_is_cut_off_at_the_target_that_is_drawn(data):
  given = [text('q1'), image('target', 't1'), text('a', 'assistant', True), text('q2'),
           image('target', 't2'), text('end', 'assistant', True)]
  lengths = []
  for visit in range(DRAWS // 10):
    made = tasks.prepare(sample(*given), 'dialogue', data, 0, visit)
    lengths.append(len(made.parts))
    assert [part.loss for part in made.parts] == [False] * (len(made.parts) - 1) + [True]
    assert brief(made) == brief(sample(*given))[:len(made.parts)] and made.parts[-1].is_target
  assert set(lengths) == {2, 5}
  assert near(lengths.count(2), len(lengths), 0.5)


def near(count, draws, share):
  """Within three standard deviations of a binomial."""
  return abs(count - draws * share) <= 3 * math.sqrt(draws * share * (1 - share))


RATES = dict(all=0.1, text=0.2, last_text=0.3, vision=0.4, latents=0.25)


def test_droppings_keep_their_rates_and_are_independent(data):
  """20,000 visits of a record: each kind alone, and all of them together."""
  data.dropout.update(RATES)
  given = sample(text('sys', 'system'), text('first'), SRC, text('last'), T)
  counts = dict.fromkeys((*RATES, 'none'), 0)
  for visit in range(DRAWS):
    made = tasks.prepare(given, 'many_to_many', data, 7, 0, visit)
    words = [part.text for part in made.texts]
    everything = not any(part.role == 'source' for part in made.images)
    counts['all'] += everything
    if everything:
      assert brief(made)[-1] == ('target', 't')
      continue
    source = next(part for part in made.images if part.role == 'source')
    replaced = 'first' not in words
    counts['text'] += replaced
    counts['last_text'] += 'last' not in words if not replaced else data.empty_prompt not in words
    counts['vision'] += not source.seen
    counts['latents'] += not source.clean
    counts['none'] += made == tasks.worded(given, 'many_to_many', data)
  whole = DRAWS - counts['all']
  assert near(counts['all'], DRAWS, RATES['all'])
  for kind in ('text', 'last_text', 'vision', 'latents'):
    assert near(counts[kind], whole, RATES[kind]), (kind, counts)
  assert near(counts['none'], DRAWS, math.prod(1 - rate for rate in RATES.values()))


def test_droppings_are_the_same_at_every_visit_and_differ_between_sources(data):
  data.dropout.all = 0.5
  given = sample(text('x'), T)

  def made(seed, source):
    return [len(tasks.prepare(given, 'pair', data, seed, source, visit).parts[0].text)
            for visit in range(64)]
  assert made(1, 0) == made(1, 0)
  assert made(1, 0) != made(1, 1) and made(1, 0) != made(2, 0)


@pytest.mark.parametrize('task', ['caption', 'conversation'])
def test_language_tasks_drop_nothing(task, data):
  data.dropout.update(dict.fromkeys(RATES, 1.0))
  given = sample(*CASES[task][0])
  assert tasks.prepare(given, task, data, 0, 0) == tasks.worded(given, task, data)


def test_what_each_kind_takes_away(data):
  given = tasks.worded(sample(text('sys', 'system'), SRC, text('do'), T), 'many_to_many', data)
  kept = [('system', 'sys'), ('source', 's')]
  empty = ('user', data.empty_prompt)
  assert brief(tasks.dropped(given, 'all', data.empty_prompt)) == [empty, ('target', 't')]
  assert brief(tasks.dropped(given, 'all', '')) == [('target', 't')]
  assert brief(tasks.dropped(given, 'text', data.empty_prompt)) == [*kept, empty, ('target', 't')]
  assert brief(tasks.dropped(given, 'last_text', '')) == [*kept, ('target', 't')]
  no_vision = tasks.dropped(given, 'vision', '')
  assert [part.seen for part in no_vision.images] == [False, True]
  no_latents = tasks.dropped(given, 'latents', '')
  assert [part.clean for part in no_latents.images] == [False, True]
  assert brief(no_vision) == brief(no_latents) == brief(given)
  with_targets = {kind: tasks.dropped(given, kind, '').targets for kind in tasks.DROPPABLE}
  assert all(targets == given.targets for targets in with_targets.values())


@pytest.mark.parametrize('kind', tasks.DROPPABLE)
def test_a_dropped_sample_is_the_branch_of_guidance(kind, data):
  given = sample(SRC, text('do'), T)
  data.dropout[kind] = 1.0
  trained = tasks.prepare(given, 'edit', data, 0, 0)
  worded = tasks.worded(given, 'edit', data)
  (weight, kept), (rest, branch) = system_parts.text_branches(worded, 3.0, kind, data.empty_prompt)
  assert (weight, rest) == (3.0, -2.0) and kept is worded and branch == trained


def test_a_request_is_worded_as_its_training_sample(data):
  trained = tasks.worded(sample(SRC, text('do'), T), 'edit', data)
  asked = dataclasses.replace(T, image=None, size=(16, 16))
  request = tasks.worded(sample(SRC, text('do'), asked), 'edit', data)
  assert request.parts[:-1] == trained.parts[:-1]
