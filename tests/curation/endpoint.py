"""An endpoint of OpenAI's type in a process of its own: texts and images. Prints its port.

A text ``refuse`` gets 400, ``cut`` an answer that ends at its length; any other is repeated in
capitals, with the number of images, after 0.1 s if it holds ``[slow]``. Images are one grey pixel
for each that was given, plus one.
``GET /calls`` tells how many calls there were.
"""

import base64
import http.server
import io
import json
import time

import numpy as np
from PIL import Image

CALLS = []


class Handler(http.server.BaseHTTPRequestHandler):
  """One call."""

  def log_message(self, *words):
    """Says nothing."""

  def do_GET(self):
    """The number of calls."""
    self._send(200, len(CALLS))

  def do_POST(self):
    """One answer."""
    data = self.rfile.read(int(self.headers['content-length']))
    CALLS.append(self.path)
    if self.path.endswith('/images/generations'):
      return self._send(200, dict(created=1, data=[_grey(1)]))
    if self.path.endswith('/images/edits'):
      return self._send(200, dict(created=1, data=[_grey(1 + data.count(b'image/png'))]))
    body = json.loads(data)
    content = body['messages'][-1]['content']
    parts = [dict(type='text', text=content)] if isinstance(content, str) else content
    text = ' '.join(part['text'] for part in parts if part['type'] == 'text')
    if '[slow]' in text:
      time.sleep(0.1)
    if text == 'refuse':
      return self._send(400, dict(error=dict(message='not this one')))
    images = sum(part['type'] == 'image_url' for part in parts)
    return self._send(200, dict(
        id='1', object='chat.completion', created=1, model=body['model'],
        usage=dict(prompt_tokens=4, completion_tokens=3, total_tokens=7),
        choices=[dict(index=0, finish_reason='length' if text == 'cut' else 'stop', message=dict(
            role='assistant', content=f'{text.upper()} {images}'))]))

  def _send(self, status, value):
    data = json.dumps(value).encode()
    self.send_response(status)
    self.send_header('content-type', 'application/json')
    self.send_header('content-length', str(len(data)))
    self.end_headers()
    self.wfile.write(data)


def _grey(count):
  buffer = io.BytesIO()
  Image.fromarray(np.full((1, count, 3), 128, np.uint8)).save(buffer, 'PNG')
  return dict(b64_json=base64.b64encode(buffer.getvalue()).decode())


if __name__ == '__main__':
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
  print(server.server_port, flush=True)
  server.serve_forever()
