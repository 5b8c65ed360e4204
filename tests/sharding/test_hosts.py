"""Barriers and texts between hosts, over a real coordinator within one process."""

import socket
import threading
import time

import jax
import pytest
from jax._src.lib import _jax

from jaxgen.core.errors import UserError
from jaxgen.sharding.hosts import Hosts


@pytest.fixture
def pair():
  """Two hosts of one run; both clients live in this process."""
  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    address = f'localhost:{probe.getsockname()[1]}'
  service = _jax.get_distributed_runtime_service(address, 2)
  clients = [_jax.get_distributed_runtime_client(address, index) for index in range(2)]
  in_threads([client.connect for client in clients])
  yield [Hosts(client, index, 2, ('left', 'right')) for index, client in enumerate(clients)]
  in_threads([client.shutdown for client in clients])
  service.shutdown()


def in_threads(functions):
  """What each returned or raised, all running at once."""
  results = [None] * len(functions)

  def run(index):
    try:
      results[index] = functions[index]()
    except UserError as error:
      results[index] = error

  threads = [threading.Thread(target=run, args=(index,)) for index in range(len(functions))]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(60)
  return results


def test_texts_arrive_in_the_order_of_processes(pair):
  assert in_threads([lambda: pair[0].gather('a', 'x'), lambda: pair[1].gather('a', 'y')]) == [
      ['x', 'y'], ['x', 'y']]
  assert pair[0].texts('a') == {0: 'x', 1: 'y'}
  pair[0].put('a/0', 'z')
  assert pair[1].texts('a') == {0: 'z', 1: 'y'}


def test_a_barrier_names_who_is_missing_within_its_time_out(pair):
  began = time.monotonic()
  with pytest.raises(UserError, match=r'barrier save: process 1 \(right\) did not come within 1 s'):
    pair[0].barrier('save', timeout=1)
  assert time.monotonic() - began < 5
  pair[1].barrier('save', timeout=1)  # the other one was there


def test_a_single_process_waits_for_nobody():
  hosts = Hosts(None, 0, 1)
  assert hosts.gather('any', 'text') == ['text']
  hosts.barrier('any')
  assert jax.process_count() == 1 and socket.gethostname() in hosts.label(0)
