"""Metrics in the format of Prometheus: calls by route and status, and what the engine has done."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client import Counter
from prometheus_client import Histogram
from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from jaxgen.serving.engine import Engine

SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)


class Metrics:
  """Of one server.

  Args:
    engine: that draws.
  """

  def __init__(self, engine: Engine):
    self._registry = CollectorRegistry()
    self._calls = Counter('jaxgen_calls', 'Calls by route and status.', ['route', 'status'],
                          registry=self._registry)
    self._seconds = Histogram('jaxgen_call_seconds', 'From the arrival of a call to its answer.',
                              ['route'], buckets=SECONDS, registry=self._registry)
    self._registry.register(_EngineCollector(engine))

  def call(self, route: str, status: int, seconds: float) -> None:
    """Counts a call."""
    self._calls.labels(route, str(status)).inc()
    self._seconds.labels(route).observe(seconds)

  def text(self) -> bytes:
    """As Prometheus reads them."""
    return generate_latest(self._registry)


class _EngineCollector(Collector):
  """Reads the engine's own counts when it is asked."""

  def __init__(self, engine: Engine):
    self._engine = engine

  def collect(self) -> Iterator[Metric]:
    engine, counts = self._engine, self._engine.counts
    yield GaugeMetricFamily('jaxgen_queued', 'Requests that wait.', engine.queued)
    yield GaugeMetricFamily('jaxgen_under_way', 'Requests that are being drawn.', engine.under_way)
    for name, text, value in (
        ('batches', 'Batches begun.', counts.batches),
        ('requests', 'Requests drawn.', counts.jobs),
        ('images', 'Images drawn.', counts.images),
        ('requests_left', 'Requests whose client left.', counts.left),
        ('requests_late', 'Requests that were not done by their deadline.', counts.late),
        ('requests_failed', 'Requests that went wrong.', counts.failed),
        ('device_seconds', 'Seconds spent on batches.', counts.seconds),
        ('programs', 'Programs compiled since the server was ready; should stay 0.',
         counts.programs)):
      yield CounterMetricFamily(f'jaxgen_{name}', text, value)
