"""Clusters of feature vectors by cosine similarity: exact for a few, by an index for many."""

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from jaxgen.curation.extras import extra
from jaxgen.features.vectors import unit

EXACT = 2048  # vectors whose similarities are all computed
_WIDTH = 64  # of the projections that the index holds
# Of the index: links of each vector, and vectors that a search keeps in view.
_LINKS, _VIEW = 16, 96


def clusters(features: np.ndarray, least: float, *, neighbours: int = 16) -> list[np.ndarray]:
  """Sets of vectors that are connected by similarities of ``least`` or more.

  Above ``EXACT`` vectors those near each one are found by HNSW (faiss) among projections to 64
  dimensions, and compared exactly: O(n log n) in time, the same result at every run.

  Args:
    features: f32[n, E].
    least: cosine similarity.
    neighbours: of each vector that are looked at where there are many.

  Returns:
    int[...] each, ascending, all of two or more, by their first members.
  """
  vectors = unit(features)
  if len(vectors) <= EXACT:
    near, far = np.nonzero(np.triu(vectors @ vectors.T >= least, 1))
  else:
    near, far = _near(vectors, least, neighbours)
  edges = coo_array((np.ones(len(near), bool), (near, far)), shape=(len(vectors),) * 2)
  _, labels = connected_components(edges, directed=False)
  order = np.argsort(labels, kind='stable')
  found = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
  return sorted((members for members in found if len(members) > 1), key=lambda each: each[0])


def _near(vectors: np.ndarray, least: float, neighbours: int) -> tuple[np.ndarray, np.ndarray]:
  """Pairs of places, int[m] each, whose exact similarity is ``least`` or more."""
  faiss = extra('faiss', 'faiss-cpu')
  count, width = vectors.shape
  small = vectors
  if width > _WIDTH:
    projection = np.random.default_rng(0).standard_normal((width, _WIDTH), np.float32)
    small = unit(vectors @ projection)
  faiss.omp_set_num_threads(1)  # several would link them in another order each time
  index = faiss.IndexHNSWFlat(small.shape[1], _LINKS, faiss.METRIC_INNER_PRODUCT)
  index.hnsw.efConstruction, index.hnsw.efSearch = _VIEW, max(_VIEW, neighbours + 1)
  index.add(small)
  _, found = index.search(small, min(neighbours + 1, count))  # i64[n, neighbours + 1]
  near, far = np.repeat(np.arange(count), found.shape[1]), found.ravel()
  there = (near != far) & (far >= 0)  # -1 where fewer were found
  near, far = near[there], far[there]
  kept = np.concatenate([
      np.einsum('nd,nd->n', vectors[near[start:start + 65_536]], vectors[far[start:start + 65_536]])
      for start in range(0, len(near), 65_536)]) >= least
  return near[kept], far[kept]
