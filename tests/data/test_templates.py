"""Dialects: ids of apply_chat_template, strings of pipelines, loss, placeholders, specials."""

import ast
import importlib.util
import itertools
import pathlib

import numpy as np
import pytest
import tokenizers
import transformers
from tokenizers import decoders
from tokenizers import models
from tokenizers import pre_tokenizers
from tokenizers import trainers

from jaxgen.core.errors import UserError
from jaxgen.data.dialects import DIALECTS
from jaxgen.data.sample import Part
from jaxgen.data.templates import shown_images
from jaxgen.data.templates import tokenize
from jaxgen.data.tokenizer import Tokenizer
from jaxgen.data.tokenizer import load_tokenizer

# As published with the models.
QWEN = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}"
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
    "{{ message['content'] }}<|im_end|>\n{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}"
    "{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif content['type'] == 'video' or 'video' in "
    "content %}{% set video_count.value = video_count.value + 1 %}"
    "{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}"
    "<|vision_start|><|video_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}"
    "{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
INTERNVL = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "{{ '<IMG_CONTEXT>\n' }}{% elif content['type'] == 'video' %}{{ '<video>\n' }}"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{'<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}")
CHATS = {'qwen_chat': QWEN, 'internvl': INTERNVL}
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")
ENDS = ['<|endoftext|>', '<|im_start|>', '<|im_end|>']
NAMES = {'qwen_chat': ('<|vision_start|>', '<|image_pad|>', '<|vision_end|>'),
         'internvl': ('<img>', '<IMG_CONTEXT>', '</img>')}


def make_tokenizer(folder, names, chat_template):
  """A small tokenizer that splits texts as Qwen's does, with one family's names for images."""
  backend = tokenizers.Tokenizer(models.BPE())
  backend.pre_tokenizer = pre_tokenizers.Sequence([
      pre_tokenizers.Split(tokenizers.Regex(SPLIT), 'isolated'),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
  backend.decoder = decoders.ByteLevel()
  texts = ['system\nYou are a helpful assistant.', 'user\na cat', 'assistant\n\n a dog', '\n\n']
  backend.train_from_iterator(texts * 20, trainers.BpeTrainer(
      vocab_size=400, show_progress=False,
      initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
  backend.add_special_tokens(ENDS + list(names))
  backend.add_tokens(['<tool_call>'])  # not special, and yet no part of a text
  fast = transformers.PreTrainedTokenizerFast(
      tokenizer_object=backend, pad_token='<|endoftext|>', eos_token='<|im_end|>')
  fast.chat_template = chat_template
  fast.save_pretrained(str(folder))
  return load_tokenizer(str(folder)), fast


@pytest.fixture(scope='module')
def chats(tmp_path_factory):
  return {name: make_tokenizer(tmp_path_factory.mktemp(name), NAMES[name], CHATS[name])
          for name in CHATS}


@pytest.fixture(scope='module')
def qwen(chats):
  return chats['qwen_chat'][0]


def text(role, content, loss=False):
  return Part(role, text=content, loss=loss)


def image(role='context', **fields):
  return Part(role, loss=role == 'target', **fields)


def spelt(tokenizer, tokens):
  return tokenizer.backend.decode(tokens.tokens.tolist(), skip_special_tokens=False)


def with_loss(tokenizer, tokens):
  ids = tokens.tokens[tokens.loss_mask > 0].tolist()
  return tokenizer.backend.decode(ids, skip_special_tokens=False)


def messages_of(parts):
  """The parts in the form that apply_chat_template takes."""
  def role(part):
    return {'target': 'assistant'}.get(part.role, 'user') if part.is_image else part.role

  return [{'role': name, 'content': [
      {'type': 'image'} if part.is_image else {'type': 'text', 'text': part.text}
      for part in group]} for name, group in itertools.groupby(parts, role)]


def expected_ids(fast, name, parts, counts, go_on):
  string = fast.apply_chat_template(messages_of(parts), tokenize=False,
                                    add_generation_prompt=go_on)
  start, token, end = NAMES[name]
  # Qwen's template writes start and end itself, InternVL's processor does so.
  one = token if name == 'qwen_chat' else None
  for count in counts:
    full = token.replace('>', '\0') * count
    string = (string.replace(one, full, 1) if one
              else string.replace(token, start + full + end, 1))
  return fast.encode(string.replace('\0', '>'), add_special_tokens=False)


TEXTS = ['a cat', '  two\n\nlines\n', '\n begins on its own line', 'Ünïcode 字 🙂', '']


@pytest.mark.parametrize('name', CHATS)
@pytest.mark.parametrize('turns', [1, 2, 3])
@pytest.mark.parametrize('images', [0, 1, 2, 3])
def test_ids_are_those_of_the_chat_template(chats, name, turns, images):
  tokenizer, fast = chats[name]
  for system, first in itertools.product((False, True), range(len(TEXTS))):
    parts = [text('system', 'Be brief.')] if system else []
    left = images
    for turn in range(turns):
      role = ('user', 'assistant')[turn % 2]
      if role == 'user':
        here = left if turn + 2 >= turns else min(left, 1)
        left -= here
        # Texts stand on either side of the images.
        parts += [text('user', 'Look: '), *[image()] * here]
      parts.append(text(role, TEXTS[(first + turn) % len(TEXTS)], loss=role == 'assistant'))
    counts = [2, 1, 3][:images]
    go_on = turns % 2 == 1
    tokens = tokenize(parts, DIALECTS[name], tokenizer, counts, 0, generate=go_on)
    assert tokens.tokens.tolist() == expected_ids(fast, name, parts, counts, go_on)
    assert tokens.tokens.dtype == tokens.image_index.dtype == np.int32
    assert tokens.image_index[tokens.image_index >= 0].tolist() == list(range(sum(counts)))
    assert ((tokens.image_index >= 0) == (tokens.tokens == tokenizer.image)).all()
    said = ''.join(f'{part.text}<|im_end|>' for part in parts if part.role == 'assistant')
    assert tokens.loss_mask.dtype == np.float32
    if not said.startswith('\n'):
      assert with_loss(tokenizer, tokens) == said


def test_a_token_across_the_border_of_an_answer_is_given_to_the_model(qwen):
  parts = [text('user', 'a'), text('assistant', '\n a dog', loss=True)]
  tokens = tokenize(parts, DIALECTS['qwen_chat'], qwen, (), 0, generate=False)
  assert with_loss(qwen, tokens) == ' a dog<|im_end|>'
  assert '<|im_start|>assistant\n\n a dog<|im_end|>\n' in spelt(qwen, tokens)


def test_golden_strings_of_prompts_without_a_system_line(qwen):
  """Z-Image's tower with thinking enabled, and OpenUni's prompt (L142, L143)."""
  parts = [text('user', 'Generate an image: a cat'), image('target')]
  turn = '<|im_start|>user\nGenerate an image: a cat<|im_end|>\n<|im_start|>assistant\n'
  for dialect, end in (('qwen3_chat', ''), ('internvl', '<|vision_start|><|endoftext|>')):
    tokens = tokenize(parts, DIALECTS[dialect], qwen, (), int(bool(end)), generate=True)
    assert spelt(qwen, tokens) == turn + end


def source_strings(path, name):
  """The strings that a file of diffusers assigns to an attribute or a variable of that name."""
  root = pathlib.Path(importlib.util.find_spec('diffusers').origin).parent
  found = []
  for node in ast.walk(ast.parse((root / path).read_text())):
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
      target = node.targets[0]
      if name == (target.attr if isinstance(target, ast.Attribute) else target.id):
        found.append(node.value.value)
  return found


@pytest.mark.parametrize('dialect, file, images', [
    ('qwen_image', 'pipeline_qwenimage.py', 0),
    ('qwen_image', 'pipeline_qwenimage_edit.py', 1),
    ('qwen_image_plus', 'pipeline_qwenimage_edit_plus.py', 0),
    ('qwen_image_plus', 'pipeline_qwenimage_edit_plus.py', 1),
    ('qwen_image_plus', 'pipeline_qwenimage_edit_plus.py', 3)])
def test_prompts_of_qwen_image_are_those_of_diffusers(qwen, dialect, file, images):
  path = f'pipelines/qwenimage/{file}'
  [template] = source_strings(path, 'prompt_template_encode')
  [crop] = source_strings(path, 'prompt_template_encode_start_idx')
  prompt = 'Make {it} snow'
  pictures = ''
  if dialect == 'qwen_image_plus':
    [picture] = source_strings(path, 'img_prompt_template')
    pictures = ''.join(picture.format(number) for number in range(1, images + 1))
  parts = [*[image('source')] * images, text('user', prompt), image('target')]
  tokens = tokenize(parts, DIALECTS[dialect], qwen, [1] * images, 4, generate=True)
  expected = qwen.backend.encode(template.replace('{}', pictures + prompt)).ids
  assert tokens.tokens.tolist() == expected + [qwen.pad] * 4
  assert tokens.query_index.tolist() == [-1] * len(expected) + [0, 1, 2, 3]
  assert tokens.crop == crop and not tokens.loss_mask.any()


def test_no_other_system_text_where_it_is_cropped(qwen):
  with pytest.raises(UserError, match="^a:3 = 'Be brief.': the denoiser was trained"):
    tokenize([text('system', 'Be brief.'), text('user', 'a')], DIALECTS['qwen_image'], qwen, (), 0,
             True, where='a:3')


def test_plain_is_what_language_models_read_without_turns(tokenizer):
  seen, caption = '<img><IMG_CONTEXT><IMG_CONTEXT><IMG_CONTEXT></img>', ' a photo of a cross'
  cases = [
      ([text('user', 'Generate an image that is identical to the reference image:'), image(),
        image('target')],
       f'Generate an image that is identical to the reference image:{seen}', ''),
      ([text('user', 'Generate an image: a cat'), image('target')], 'Generate an image: a cat', ''),
      ([text('user', 'Generate an image.'), image('target')], 'Generate an image.', ''),
      ([image(), text('user', 'Describe the image:'), text('assistant', caption, loss=True)],
       f'{seen}Describe the image:{caption}<|im_end|>', f'{caption}<|im_end|>')]
  for parts, expected, loss in cases:
    generate = parts[-1].is_target
    tokens = tokenize(parts, DIALECTS['plain'], tokenizer, [3] * expected.count(seen), 2, generate)
    prompt = dict(queries=tokens.query_index.tolist(), text=spelt(tokenizer, tokens))
    queries = '<pad>' * (2 * generate)
    assert prompt['text'] == expected + queries
    assert prompt['queries'][-2:] == ([0, 1] if generate else [-1, -1])
    assert with_loss(tokenizer, tokens) == loss and tokens.crop == 0
  ids = tokenizer.encode('Describe the image:') + tokenizer.encode(caption) + [tokenizer.end]
  assert tokens.tokens.tolist()[5:] == ids


STORY = [
    text('user', 'Draw a cat, then a dog.'), text('assistant', 'A cat:', loss=True),
    image('target'), text('assistant', 'A dog:', loss=True), image('target')]


def test_interleaved_answers(qwen):
  """Earlier targets are context; the last one begins and is not written (L110, L114)."""
  tokens = tokenize(STORY, DIALECTS['qwen_chat'], qwen, [2], 3, generate=True, bov_weight=0.5)
  assert spelt(qwen, tokens).endswith(
      '<|im_start|>user\nDraw a cat, then a dog.<|im_end|>\n<|im_start|>assistant\nA cat:'
      '<|vision_start|><|image_pad|><|image_pad|><|vision_end|>A dog:<|vision_start|>'
      + '<|endoftext|>' * 3)
  assert with_loss(qwen, tokens) == 'A cat:<|vision_start|>A dog:<|vision_start|>'
  begins = tokens.loss_mask[tokens.tokens == qwen.image_start]
  assert begins.tolist() == [0.5, 0.5]
  assert tokens.query_index[-3:].tolist() == [0, 1, 2]

  drawn = [Part('target') if part.is_image else part for part in STORY]  # drawn before, no loss
  tokens = tokenize(drawn, DIALECTS['qwen_chat'], qwen, [2], 0, generate=True)
  assert with_loss(qwen, tokens) == 'A cat:A dog:'


def test_all_images_are_context_where_nothing_is_drawn(qwen):
  assert shown_images(STORY, True) == [2] and shown_images(STORY, False) == [2, 4]
  tokens = tokenize(STORY, DIALECTS['qwen_chat'], qwen, [1, 1], 3, generate=False)
  assert spelt(qwen, tokens).endswith(
      'A dog:<|vision_start|><|image_pad|><|vision_end|><|im_end|>\n')
  assert (tokens.query_index == -1).all()
  # The model is to end its turn behind an image that it drew.
  assert with_loss(qwen, tokens).endswith('<|vision_start|><|im_end|>')


def test_a_dialogue_goes_on_in_the_open_turn(qwen):
  user = text('user', 'a cat')
  tokens = tokenize([user], DIALECTS['qwen_chat'], qwen, (), 0, generate=True)
  assert spelt(qwen, tokens).endswith('a cat<|im_end|>\n<|im_start|>assistant\n')
  tokens = tokenize([user, text('assistant', 'Well,')], DIALECTS['qwen_chat'], qwen, (), 0, True)
  assert spelt(qwen, tokens).endswith('<|im_start|>assistant\nWell,')
  tokens = tokenize([image('target')], DIALECTS['internvl'], qwen, (), 0, True)
  assert spelt(qwen, tokens) == (
      '<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n<|vision_start|>')


def test_images_that_are_not_seen_leave_nothing(qwen):
  parts = [text('user', 'a'), image(seen=False), text('user', 'b'), image()]
  tokens = tokenize(parts, DIALECTS['qwen_image_plus'], qwen, [1], 0, generate=False)
  assert ('user\nabPicture 1: <|vision_start|><|image_pad|><|vision_end|><|im_end|>'
          in spelt(qwen, tokens))
  with pytest.raises(AssertionError, match='one count for each image'):
    tokenize(parts, DIALECTS['qwen_chat'], qwen, [1, 1], 0, generate=False)


def placed(tokenizer, parts, counts, dialect='plain', **options):
  tokens = tokenize(parts, DIALECTS[dialect], tokenizer, counts, 0, True, placeholders=True,
                    **options)
  spelling = spelt(tokenizer, tokens).replace('<IMG_CONTEXT>', '.')
  return spelling, tokens.image_index[tokens.image_index >= 0].tolist()


def test_placeholders_place_images(tokenizer):
  parts = [image(), image(), image(), text('user', 'put <image_3> on <image_1>, as in <image_3>'),
           image('target')]
  spelling, index = placed(tokenizer, parts, [1, 2, 3])
  assert spelling == '<img>..</img>put <img>...</img> on <img>.</img>, as in <image_3>'
  assert index == [1, 2, 3, 4, 5, 0]
  off = tokenize(parts, DIALECTS['plain'], tokenizer, [1, 2, 3], 0, True)
  assert spelt(tokenizer, off).endswith('</img>put <image_3> on <image_1>, as in <image_3>')


def test_placeholders_of_more_than_one_digit(tokenizer):
  mentions = ' '.join(f'<image_{number}>' for number in range(12, 0, -1))
  parts = [*[image()] * 12, text('user', mentions), image('target')]
  spelling, index = placed(tokenizer, parts, [1] * 12)
  assert spelling == ' '.join(['<img>.</img>'] * 12) and index == list(range(11, -1, -1))


def test_placeholders_in_turns(qwen):
  parts = [text('user', '<image_1>'), image(), text('assistant', 'so <image_1>', loss=True)]
  tokens = tokenize(parts, DIALECTS['qwen_chat'], qwen, [1], 0, False, placeholders=True)
  assert spelt(qwen, tokens).endswith(
      'user\n<|vision_start|><|image_pad|><|vision_end|><|im_end|>\n<|im_start|>assistant\n'
      'so <image_1><|im_end|>\n')


def test_what_placeholders_cannot_place_stays_text(tokenizer):
  """Images that are left out, and targets, which would give the answer away."""
  parts = [image(seen=False), text('user', '<image_1> and <image_2>'), image('target'),
           text('user', 'next'), image('target')]
  spelling, _ = placed(tokenizer, parts, [1])
  assert spelling == '<image_1> and <image_2><img>.</img><|im_end|>next'  # the answer is over
  for number in (0, 4):
    with pytest.raises(UserError, match=f'^a:1 = .<image_{number}>.: the sample has 3 images'):
      placed(tokenizer, [*parts[:3], text('user', f'<image_{number}>'), parts[-1]], [1],
             where='a:1')


@pytest.mark.parametrize('name', CHATS)
def test_specials_that_a_user_spells_are_text(chats, name):
  """Whole, and across the border of two parts; the template's own are as many as ever."""
  tokenizer, fast = chats[name]
  added = fast.added_tokens_decoder
  assert '<tool_call>' in {str(token) for token in added.values()}

  def specials(first, second):
    parts = [text('user', first), text('user', second), text('assistant', first + second, True)]
    tokens = tokenize(parts, DIALECTS[name], tokenizer, (), 0, generate=False)
    return [index for index in tokens.tokens.tolist() if index in added], spelt(tokenizer, tokens)

  expected, _ = specials('a', 'b')
  for special in map(str, added.values()):
    for cut in range(len(special) + 1):
      ids, spelling = specials(f'a{special[:cut]}', f'{special[cut:]} b')
      assert ids == expected and spelling.count(f'a{special} b') == 2


def test_a_tokenizer_must_have_what_the_dialect_needs(tokenizer, qwen):
  with pytest.raises(UserError, match=r'^prompt: the tokenizer lacks <\|im_start\|>'):
    tokenize([text('user', 'a')], DIALECTS['qwen_chat'], tokenizer, (), 0, True)
  blind = Tokenizer(qwen.backend, qwen.pad, qwen.end, None, None, None)
  with pytest.raises(UserError, match='^a:1: has images, but the tokenizer'):
    tokenize([image()], DIALECTS['plain'], blind, [1], 0, False, where='a:1')
  endless = Tokenizer(qwen.backend, qwen.pad, None, None, None, None)
  with pytest.raises(UserError, match='^prompt: has an answer, but the tokenizer'):
    tokenize([text('assistant', 'a')], DIALECTS['plain'], endless, (), 0, False)
  assert len(tokenize([text('user', 'a')], DIALECTS['plain'], blind, (), 0, True).tokens) == 1


def test_a_long_prompt_without_images_loses_its_end(qwen):
  """Behind what is cropped, before the queries; one with images does not."""
  parts, dialect = [text('user', 'a cat ' * 90)], DIALECTS['qwen_image']
  full, cut = (tokenize(parts, dialect, qwen, (), 3, generate=True, longest=longest)
               for longest in (0, 50))
  assert len(full.tokens) > len(cut.tokens) == 34 + 50 + 3
  assert cut.tokens[:84].tolist() == full.tokens[:84].tolist()
  assert cut.query_index[84:].tolist() == [0, 1, 2] and cut.crop == 34
  assert len(cut.loss_mask) == len(cut.image_index) == 87
  seen = [image(), *parts]
  with_image = tokenize(seen, dialect, qwen, [4], 0, generate=True, longest=50)
  assert len(with_image.tokens) > 64 + 50
