"""What a client may ask for at the most."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Limits:
  """Limits of a server; what is beyond them is refused with a line that names the limit.

  Attributes:
    rows: rows of the largest programs; 0 takes ``config.sampling.rows``.
    draws: ``n`` of a call.
    outputs: images that one request draws in one pass.
    images: given images of one request.
    steps: of the solver.
    prompt: characters of all texts of a call.
    body: bytes of a call.
    image_bytes: bytes of one given image.
    pixels: pixels of one given image, read from its header before it is decoded.
    queue: requests that wait at the most; further ones are told to come again.
    dialogues: under way at one time.
    tokens: of each text of an answer.
    seconds: from its arrival to its answer; a call may ask for less.
    upload: seconds that sending a call may take.
    send: seconds in which a client must take its answer, or each event of one that is streamed.
    drain: seconds that requests under way are given when the server is stopped.
  """

  rows: int = 0
  draws: int = 8
  outputs: int = 4
  images: int = 4
  steps: int = 100
  prompt: int = 16_000
  body: int = 64 * 2**20
  image_bytes: int = 20 * 2**20
  pixels: int = 50_000_000
  queue: int = 64
  dialogues: int = 8
  tokens: int = 512
  seconds: float = 600.0
  upload: float = 60.0
  send: float = 60.0
  drain: float = 60.0
