"""``jaxgen serve`` on four devices, of a run that was trained on more: answers as on one device."""

import concurrent.futures
import dataclasses
import os
import signal
import subprocess
import sys
import urllib.request

import jax
import openai

from jaxgen.sampling.generate import ALL_DEVICES
from jaxgen.sampling.load import load_run
from jaxgen.serving.drawer import Drawer
from jaxgen.serving.engine import Engine
from jaxgen.serving.limits import Limits
from jaxgen.sharding.mesh import make_mesh
from tests.sampling import scripted
from tests.serving import tiny
from tests.serving.process import Server
from tests.serving.tiny import near
from tests.serving.tiny import pixels
from tests.training.launched import free_port

LIMITS = Limits(outputs=1, images=1)
FLAGS = ('--outputs=1', '--images=1', '--output-size=16x16', '--output-size=32x16',
         '--guidance=2', '--no-demo')

JOINED = '''
import sys

from jaxgen import cli
from jaxgen.sharding.processes import start_processes

start_processes()
sys.exit(cli.main(['serve', '--port=0', *sys.argv[1:]]))
'''


def client_of(url: str) -> openai.OpenAI:
  return openai.OpenAI(base_url=url, api_key='none', max_retries=0, timeout=300)


def test_four_devices_answer_as_one(workdir, bench):
  """Requests by themselves, with fewer rows than devices, and from clients that come together."""
  run, mesh = load_run(workdir), make_mesh(ALL_DEVICES, jax.devices()[:1])
  run.config.sampling.guidance = 2.0
  engine = Engine(Drawer(run, LIMITS, tiny.SIZES, mesh), LIMITS)
  engine.start()
  with tiny.serving(engine) as url:
    asked = bench.mixed(client_of(f'{url}/v1'), 10, steps=(1, 2, 3))
    expected = bench.load(client_of(f'{url}/v1'), asked, 1)
  assert engine.drain(60) and None not in expected.images
  assert all(image.std() > 10 for images in expected.images for image in images)

  server = Server(f'--workdir={workdir}', *FLAGS, devices=4)
  try:
    assert ' on 4 devices ' in server.greeting
    client = client_of(server.url)
    alone, together = bench.load(client, asked[:1], 1), bench.load(client, asked, 5)
    metrics = urllib.request.urlopen(server.url.replace('/v1', '/metrics')).read().decode()
  finally:
    code = server.end(signal.SIGTERM)
  assert None not in [*alone.images, *together.images] and code == 0
  assert bench.apart(alone, dataclasses.replace(expected, images=expected.images[:1])) == 0
  assert bench.apart(together, expected) == 0
  assert 'jaxgen_programs_total 0.0' in metrics


def dialogue(client: openai.OpenAI, seed: int) -> tuple[list[str], list]:
  """Texts and images of an answer with two images, the first of which the model reads again."""
  model, = client.models.list().data
  answer = client.chat.completions.create(
      model=model.id, seed=seed, max_tokens=6, temperature=seed % 2,
      messages=[dict(role='user', content=tiny.USER)],
      extra_body=dict(images=2, size='16x16', steps=2))
  parts = answer.choices[0].message.parts
  return ([part['text'] for part in parts if part['type'] == 'text'],
          [pixels(part['image_url']['url']) for part in parts if part['type'] == 'image_url'])


def test_dialogues_on_four_devices_are_answered_as_on_one(tiny_tokenizer, tmp_path):
  """By themselves, and from two clients that come together."""
  scripted.save_run(tmp_path, tiny_tokenizer)
  workdir, limits = str(tmp_path / 'run'), Limits(outputs=1, images=2)
  engine = Engine(Drawer(load_run(workdir), limits, tiny.SIZES[:1],
                         make_mesh(ALL_DEVICES, jax.devices()[:1])), limits)
  engine.start()
  with tiny.serving(engine) as url:
    expected = [dialogue(client_of(f'{url}/v1'), seed) for seed in (1, 2)]
  assert engine.drain(60)
  for texts, images in expected:
    assert texts and len(images) == 2 and all(image.std() > 10 for image in images)

  server = Server(f'--workdir={workdir}', '--outputs=1', '--images=2', '--output-size=16x16',
                  '--no-demo', devices=4)
  try:
    assert ' on 4 devices ' in server.greeting
    client = client_of(server.url)
    alone = dialogue(client, 1)
    with concurrent.futures.ThreadPoolExecutor() as pool:
      together = list(pool.map(lambda seed: dialogue(client, seed), (1, 2)))
    metrics = urllib.request.urlopen(server.url.replace('/v1', '/metrics')).read().decode()
  finally:
    code = server.end(signal.SIGTERM)
  assert code == 0 and 'jaxgen_programs_total 0.0' in metrics
  for found, wanted in zip([alone, *together], [expected[0], *expected], strict=True):
    assert found[0] == wanted[0] and near(found[1], wanted[1])


def test_a_server_is_one_process(workdir):
  joined = dict(JAXGEN_COORDINATOR=f'localhost:{free_port()}', JAXGEN_NUM_PROCESSES='2')
  processes = [subprocess.Popen(
      [sys.executable, '-c', JOINED, f'--workdir={workdir}'], text=True, stderr=subprocess.PIPE,
      env=os.environ | joined | dict(JAXGEN_PROCESS_ID=str(index))) for index in range(2)]
  for process in processes:
    _, said = process.communicate(timeout=600)
    assert process.returncode == 1 and 'jaxgen serve = \'2 processes\': a server is one' in said
