"""Tasks: what a record is used for, as functions from Sample to Sample, before any decoding.

A task chooses the target, words the prompt and gives every image its role. After it, a training
sample and a request look alike, and everything that follows treats them so.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from ml_collections import ConfigDict

from jaxgen.config.schema import LANGUAGE_TASKS
from jaxgen.core.errors import record_error
from jaxgen.data.mixture import uniform
from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample
from jaxgen.data.wordings import check_asked
from jaxgen.data.wordings import marked

DROPPABLE = ('all', 'text', 'last_text', 'vision', 'latents')


def prepare(sample: Sample, task: str, data: ConfigDict, seed: int, *visit: int) -> Sample:
  """Applies a task, then the random droppings of training.

  Args:
    sample: a record of any source.
    task: a key of ``TASKS``, or ``auto``, which reads it from the roles.
    data: ``config.data``: prompts and rates.
    seed: of all draws.
    *visit: numbers that tell this visit of the record from others, as source and position.

  Raises:
    UserError: the sample lacks what its task needs; names its origin.
  """
  task = kind_of(sample) if task == 'auto' else task
  made = worded(sample, task, data, uniform(seed, 'target', *visit))
  if task in LANGUAGE_TASKS:
    return made
  for kind in DROPPABLE:  # sorted from the most to the least that is dropped
    if uniform(seed, f'drop {kind}', *visit) < data.dropout[kind]:
      made = dropped(made, kind, data.empty_prompt)
  return made


def worded(sample: Sample, task: str, data: ConfigDict, draw: float = 1.0) -> Sample:
  """The sample as a task words it; ``draw`` in [0, 1] chooses among several targets."""
  return dataclasses.replace(TASKS[task](sample, data, draw), task=task)


def kind_of(sample: Sample) -> str:
  """The task that the roles of a sample's parts ask for."""
  targets = [part for part in sample.images if part.role == 'target']
  roles = {part.role for part in sample.images} - {'target'}
  if not targets:
    return 'conversation'
  if any(part.role == 'assistant' for part in sample.texts):
    return 'dialogue'
  if len(targets) > 1:
    return 'many_to_many'
  if roles:
    return 'edit' if 'source' in roles else 'reference'
  return 'pair' if sample.texts else 'image'


def dropped(sample: Sample, kind: str, empty: str) -> Sample:
  """The sample without a part of its condition: for training, and for the branches of guidance.

  Args:
    sample: with a target.
    kind: ``all`` leaves the empty prompt alone, ``text`` replaces the words and keeps the images,
      ``last_text`` takes away the last text before the target (L119), ``vision`` hides the images
      from the language model, ``latents`` from the denoiser (L144).
    empty: what stands for no words at all; '' = no text part.

  Returns:
    A sample with the same targets.
  """
  nothing = (Part('user', text=empty),) if empty else ()
  if kind == 'all':
    return _with(sample, (*nothing, *sample.targets))
  if kind == 'text':
    kept = [part for part in sample.parts if part.is_image or part.role == 'system']
    place = next(index for index, part in enumerate(kept) if part.is_target)
    return _with(sample, (*kept[:place], *nothing, *kept[place:]))
  if kind == 'last_text':
    texts = [index for index, part in enumerate(sample.parts) if not part.is_image]
    return _with(sample, sample.parts if not texts else
                 (*sample.parts[:texts[-1]], *sample.parts[texts[-1] + 1:]))
  assert kind in ('vision', 'latents'), kind
  change = dict(seen=False) if kind == 'vision' else dict(clean=False)
  return _with(sample, (
      dataclasses.replace(part, **change) if part.is_image and not part.is_target else part
      for part in sample.parts))


def _image(sample: Sample, data: ConfigDict, draw: float) -> Sample:
  """Image-only: the image conditions its own reconstruction, and may be masked (L087, L089)."""
  del draw
  target = _only_target(sample, 'image')
  shown = Part('context', image=target.image, clean=False, maskable=True)
  return _with(sample, (Part('user', text=data.reconstruction_prompt), shown, target))


def _pair(sample: Sample, data: ConfigDict, draw: float) -> Sample:
  """Caption to image."""
  del draw
  text = _outputs(data.pair_prompt, 1).replace('{caption}', _caption(sample, 'pair'))
  return _asked(sample, (Part('user', text=text),), [_only_target(sample, 'pair')], data)


def _captioning(sample: Sample, data: ConfigDict, draw: float) -> Sample:
  """Image to caption, for the next-token objective."""
  del draw
  image = dataclasses.replace(_only_target(sample, 'caption'), role='context', loss=False)
  # The space makes the words the same tokens as after the colon of ``pair_prompt``.
  answer = Part('assistant', text=' ' + _caption(sample, 'caption'), loss=True)
  return _with(sample, (image, Part('user', text=data.caption_prompt), answer))


def _reconstruction(sample: Sample, data: ConfigDict, draw: float) -> Sample:
  """Image to the same image, nothing hidden (L060)."""
  del draw
  target = _only_target(sample, 'reconstruction')
  return _with(sample, (Part('source', image=target.image),
                        Part('user', text=data.reconstruction_prompt), target))


def _edit(sample: Sample, data: ConfigDict, draw: float) -> Sample:
  """Source and instruction to the edited image; further images are references."""
  del draw
  return _instructed(sample, data, 'edit', {'context': 'reference'}, needed='source')


def _transformation(sample: Sample, data: ConfigDict, draw: float) -> Sample:
  """Another picture of what the given images show (L069): all of them are references."""
  del draw
  return _instructed(sample, data, 'transformation',
                     {'context': 'reference', 'source': 'reference'}, needed='reference')


def _reference(sample: Sample, data: ConfigDict, draw: float) -> Sample:
  """References and instruction to a new image; whatever was given is a reference."""
  del draw
  return _instructed(sample, data, 'reference',
                     {'context': 'reference', 'source': 'reference'}, needed='reference')


def _many_to_many(sample: Sample, data: ConfigDict, draw: float) -> Sample:
  """Every image before the targets is given, every target is drawn, in one pass (L010).

  The words stay where they are between the images; what ``edit_prompt`` says before and after an
  instruction stands before the first and after the last of them.
  """
  del draw
  _require_targets(sample, 'many_to_many')
  targets = _targets(sample)
  given = [part for part in sample.parts if part.role != 'target']
  before, after = _outputs(data.edit_prompt, len(targets)).split('{caption}', 1)
  places = [place for place, part in enumerate(given) if part.role == 'user']
  if places:
    first, last = places[0], places[-1]
    given[first] = dataclasses.replace(given[first], text=before + given[first].text)
    given[last] = dataclasses.replace(given[last], text=given[last].text + after)
  return _asked(sample, given, targets, data)


def _dialogue(sample: Sample, data: ConfigDict, draw: float) -> Sample:
  """One of the targets is drawn, those before it are given, the rest is cut off (L110, L116).

  Images of the user are context: a dialogue has several targets, so none of them gives its size to
  a source.
  """
  del data
  _require_targets(sample, 'dialogue')
  places = [index for index, part in enumerate(sample.parts) if part.role == 'target']
  chosen = places[min(int(draw * len(places)), len(places) - 1)]
  before = (dataclasses.replace(
      part, loss=False, role='context' if part.role in ('source', 'reference') else part.role)
            for part in sample.parts[:chosen])
  return _with(sample, (*before, dataclasses.replace(sample.parts[chosen], loss=True)))


def _conversation(sample: Sample, data: ConfigDict, draw: float) -> Sample:
  """The whole dialogue for the next-token objective: nothing is drawn (L114)."""
  del data, draw
  if not any(part.loss and not part.is_image for part in sample.parts):
    raise record_error(sample.origin or sample.id, None, 'has no text with loss; give it an '
                       'assistant text, or use the source with another task')
  last = sample.parts[-1]
  if last.role not in ('assistant', 'target'):
    raise record_error(f'{sample.origin or sample.id}: parts[{len(sample.parts) - 1}].role',
                       last.role, "the dialogue ends in a turn of the user without the assistant's "
                       'reply; add it, or leave the turn out')
  return sample


TASKS: Mapping[str, Callable[[Sample, ConfigDict, float], Sample]] = {
    'image': _image, 'pair': _pair, 'caption': _captioning, 'reconstruction': _reconstruction,
    'edit': _edit, 'transformation': _transformation, 'reference': _reference,
    'many_to_many': _many_to_many, 'dialogue': _dialogue, 'conversation': _conversation,
}


def _instructed(sample: Sample, data: ConfigDict, task: str, roles: Mapping[str, str],
                needed: str) -> Sample:
  target = _only_target(sample, task)
  given = [dataclasses.replace(part, role=roles.get(part.role, part.role))
           for part in sample.images if part.role != 'target']
  if not any(part.role == needed for part in given):
    raise record_error(sample.origin or sample.id, [part.role for part in sample.images],
                       f'task {task} needs an image of role {needed}')
  text = _outputs(data.edit_prompt, 1).replace('{caption}', _caption(sample, task))
  return _asked(sample, (*given, Part('user', text=text)), [target], data)


def _asked(sample: Sample, given: Sequence[Part], targets: Sequence[Part], data: ConfigDict
           ) -> Sample:
  """The sample as given parts, then targets: whose number, and images, the texts agree with."""
  where = f'{sample.origin or sample.id}: caption'
  for part in given:
    if part.role == 'user':
      check_asked(part.text, len(targets), where)
  return _with(sample, (*(marked(given, where) if data.placeholders else given), *targets))


def _outputs(prompt: str, count: int) -> str:
  return prompt.replace('{outputs}', str(count))


def _with(sample: Sample, parts) -> Sample:
  return dataclasses.replace(sample, parts=tuple(parts))


def _targets(sample: Sample) -> list[Part]:
  return [dataclasses.replace(part, loss=True) for part in sample.images
          if part.role == 'target']


def _only_target(sample: Sample, task: str) -> Part:
  _require_targets(sample, task)
  targets = _targets(sample)
  if len(targets) > 1:
    raise record_error(sample.origin or sample.id, len(targets),
                       f'task {task} takes samples of exactly one target; use task many_to_many')
  return targets[0]


def _require_targets(sample: Sample, task: str) -> None:
  if not _targets(sample):
    raise record_error(sample.origin or sample.id, [part.role for part in sample.parts],
                       f'task {task} needs an image of role target')


def _caption(sample: Sample, task: str) -> str:
  texts = [part.text for part in sample.texts if part.role == 'user']
  if not texts or not ' '.join(texts).strip():
    # The id names the user's own file where the origin is a record of a packed one.
    raise record_error(f'{sample.origin or sample.id}: caption', None, f'missing, but task {task} '
                       f'needs one; add it to sample {sample.id}, or use the source with task '
                       'image')
  return '\n'.join(texts)
