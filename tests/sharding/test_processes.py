"""How processes find each other: what each launcher sets, and what is missing or wrong."""

import http.server
import threading

import pytest

from jaxgen.core.errors import UserError
from jaxgen.sharding import processes
from jaxgen.sharding.processes import Start
from jaxgen.sharding.processes import find_start

TORCHRUN = dict(RANK='5', WORLD_SIZE='16', LOCAL_RANK='1', LOCAL_WORLD_SIZE='4',
                MASTER_ADDR='node0', MASTER_PORT='29500')
OPEN_MPI = dict(OMPI_COMM_WORLD_SIZE='4', OMPI_COMM_WORLD_RANK='3', OMPI_COMM_WORLD_LOCAL_RANK='1',
                OMPI_COMM_WORLD_LOCAL_SIZE='2')
# As Slurm 22.05 sets them in a step of three nodes with two tasks on the first two.
SLURM = dict(SLURM_JOB_ID='70123', SLURM_STEP_NODELIST='h800-[003-004,010]',
             SLURM_STEP_NUM_TASKS='5', SLURM_STEP_TASKS_PER_NODE='2(x2),1', SLURM_PROCID='3',
             SLURM_LOCALID='1', SLURM_NODEID='1')
GKE_TPU = dict(TPU_WORKER_HOSTNAMES='w-0.jobset,w-1.jobset', TPU_WORKER_ID='1',
               MEGASCALE_NUM_SLICES='2', MEGASCALE_SLICE_ID='1',
               MEGASCALE_COORDINATOR_ADDRESS='run-slice-0-0.run')
INDEXED_JOB = dict(JOB_COMPLETION_INDEX='2', JAXGEN_NUM_PROCESSES='4', HOSTNAME='train-2',
                   JAXGEN_SUBDOMAIN='train')
JOBSET = dict(JOB_COMPLETION_INDEX='1', JAXGEN_NUM_PROCESSES='6', PODS_PER_JOB='2', JOB_INDEX='2',
              JOBSET_NAME='run', REPLICATED_JOB_NAME='node')
EXPLICIT = dict(JAXGEN_COORDINATOR='10.0.0.1:99', JAXGEN_NUM_PROCESSES='2', JAXGEN_PROCESS_ID='1')


@pytest.mark.parametrize('environ, start', [
    ({}, None),
    (TORCHRUN, Start('torchrun', 'node0:29500', 16, 5, (1, 4))),
    # torchrun's own store has taken the port.
    (TORCHRUN | dict(TORCHELASTIC_RUN_ID='1'), Start('torchrun', 'node0:29501', 16, 5, (1, 4))),
    (OPEN_MPI | dict(OMPI_MCA_orte_hnp_uri='1531576320.0;tcp://10.96.0.1,10.148.0.1:34911'),
     Start('openmpi', '10.96.0.1:8476', 4, 3, (1, 2))),
    (OPEN_MPI | dict(OMPI_MCA_orte_hnp_uri='1.0;tcp6://[fe80::b9b,2620::2]:43370'),
     Start('openmpi', '[fe80::b9b]:8476', 4, 3, (1, 2))),
    (OPEN_MPI | dict(MASTER_ADDR='gpu1'), Start('openmpi', 'gpu1:8476', 4, 3, (1, 2))),
    (OPEN_MPI | dict(OMPI_COMM_WORLD_LOCAL_SIZE='4'),
     Start('openmpi', 'localhost:8476', 4, 3, (1, 4))),
    (SLURM, Start('slurm', 'h800-003:20123', 5, 3, (1, 2))),
    # The batch script itself: Slurm counts its tasks, but it is none of them.
    (dict(SLURM_JOB_ID='7', SLURM_NTASKS='2', SLURM_PROCID='0', SLURM_LOCALID='0'), None),
    (GKE_TPU, Start('tpu', 'run-slice-0-0.run:8476', 4, 3)),
    (GKE_TPU | dict(JOB_COMPLETION_INDEX='1'), Start('tpu', 'run-slice-0-0.run:8476', 4, 3)),
    (INDEXED_JOB, Start('kubernetes', 'train-0.train:8476', 4, 2)),
    (JOBSET, Start('kubernetes', 'run-node-0-0.run:8476', 6, 5)),
    (EXPLICIT, Start('explicit', '10.0.0.1:99', 2, 1)),
    (TORCHRUN | EXPLICIT, Start('explicit', '10.0.0.1:99', 2, 1)),
    (SLURM | TORCHRUN, Start('torchrun', 'node0:29500', 16, 5, (1, 4))),
    (SLURM | TORCHRUN | dict(JAXGEN_COORDINATOR='slurm'),
     Start('slurm', 'h800-003:29500', 5, 3, (1, 2))),
    (SLURM | dict(JAXGEN_COORDINATOR='none'), None),
])
def test_each_launcher_is_understood(environ, start):
  assert find_start(environ) == start


def test_flags_go_before_variables():
  assert find_start(EXPLICIT, 'other:1', 3, 0) == Start('explicit', 'other:1', 3, 0)


@pytest.mark.parametrize('environ, message', [
    (dict(JAXGEN_COORDINATOR='h:1'), 'JAXGEN_NUM_PROCESSES'),
    (EXPLICIT | dict(JAXGEN_PROCESS_ID='2'), 'process number .explicit. = 2: must be 0 to 1'),
    (dict(JAXGEN_COORDINATOR='slurm'), "JAXGEN_COORDINATOR = 'slurm': its variables are not set"),
    (dict(JAXGEN_COORDINATOR='magic'), 'use host:port, auto, none or one of torchrun'),
    (OPEN_MPI, 'add -x MASTER_ADDR=HOST'),
    (TORCHRUN | dict(WORLD_SIZE='many'), "WORLD_SIZE = 'many': must be a number"),
    (dict(JOB_COMPLETION_INDEX='2'), 'JAXGEN_NUM_PROCESSES'),
])
def test_what_is_missing_is_named(environ, message):
  with pytest.raises(UserError, match=message) as error:
    find_start(environ)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('nodes, first', [
    ('node001', 'node001'), ('node001,host2', 'node001'), ('node[007-015],host2', 'node007'),
    ('n[3,5-9]', 'n3'), ('rack[2-3]n[1-4],x', 'rack2n1'),
])
def test_first_host_of_a_slurm_list(nodes, first):
  assert processes.first_host(nodes) == first


@pytest.mark.parametrize('environ, local, devices', [
    (dict(CUDA_VISIBLE_DEVICES='0,1,2,3'), (0, 1), None),  # one process for all of them
    (dict(CUDA_VISIBLE_DEVICES='0,1,2,3'), (2, 4), [2]),
    (dict(CUDA_VISIBLE_DEVICES='0,1,2,3'), (1, 2), [2, 3]),
    (dict(CUDA_VISIBLE_DEVICES='3'), (3, 4), None),  # the launcher has shared them out
    (dict(CUDA_VISIBLE_DEVICES='0,1', SLURM_GPUS_PER_TASK='2'), (1, 2), None),
])
def test_gpus_are_shared_out_among_the_processes_of_a_machine(environ, local, devices):
  start = Start('slurm', 'h:1', 8, 0, local)
  assert processes.local_devices(start, environ) == devices


def test_gpus_that_cannot_be_shared_out():
  with pytest.raises(UserError, match='3 processes cannot share 4 GPUs'):
    processes.local_devices(Start('slurm', 'h:1', 8, 0, (0, 3)),
                            dict(CUDA_VISIBLE_DEVICES='0,1,2,3'))


@pytest.fixture
def metadata_server():
  """A metadata server like the one that a Cloud TPU VM asks; worker 1 of slice 1 of 2."""
  attributes = {
      'agent-worker-number': '1',
      'worker-network-endpoints': 'unknown:unknown:10.0.0.2,unknown:unknown:10.0.0.3',
      'tpu-env': "ACCELERATOR_TYPE: 'v5p-16'\nMEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'\n"
                 "MEGASCALE_COORDINATOR_ADDRESS: '10.0.0.9:8080'\n"}

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      assert self.headers['Metadata-Flavor'] == 'Google'
      text = attributes[self.path.rpartition('/')[2]]
      self.send_response(200)
      self.end_headers()
      self.wfile.write(text.encode())

    def log_message(self, *words):
      pass

  with http.server.ThreadingHTTPServer(('localhost', 0), Handler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'localhost:{server.server_port}'
    server.shutdown()


def test_a_tpu_vm_asks_its_metadata_server(metadata_server):
  environ = dict(GCE_METADATA_IP=metadata_server, JAXGEN_COORDINATOR='tpu')
  assert find_start(environ) == Start('tpu', '10.0.0.9:8476', 4, 3)


def test_a_metadata_server_that_is_silent():
  with pytest.raises(UserError, match='TPU metadata worker-network-endpoints: .* none for this'):
    find_start(dict(GCE_METADATA_IP='localhost:1', JAXGEN_COORDINATOR='tpu'))
