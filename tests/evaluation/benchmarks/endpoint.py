"""A judge's endpoint in a process of its own, which answers, waits, fails, lies and cuts.

What a text says decides: ``[slow 0.2]`` takes 0.2 s, ``[fails n]`` gives 500 to the first n tries,
``[busy]`` 429 to the first one, ``[malformed]`` is no JSON, ``[malformed once]`` only at first,
``[torn]`` ends within its body, ``[empty]`` has no choices, ``[cut]`` stops at its length,
``[echo ..]`` says the words. ``GET /stats`` tells the number of calls, the most at once, and the
bodies, ``GET /v1/models`` the only model. Prints its port.
"""

import http.server
import json
import re
import threading
import time

STATE = dict(calls=0, now=0, most=0, bodies=[])
TRIES: dict[str, int] = {}
LOCK = threading.Lock()


class Handler(http.server.BaseHTTPRequestHandler):
  """One call."""

  protocol_version = 'HTTP/1.1'

  def log_message(self, *words):
    """Says nothing."""

  def do_GET(self):
    """Tells what happened so far, or which models there are."""
    if self.path == '/stats':
      return self._send(200, json.dumps(STATE).encode())
    if self.headers['authorization'] != 'Bearer right':
      return self._send(401, b'{"error": {"message": "no such key"}}')
    if self.path != '/v1/models':
      return self._send(404, b'{"error": {"message": "no such place"}}')
    models = [dict(id='judge', object='model', created=1, owned_by='us')]
    return self._send(200, json.dumps(dict(object='list', data=models)).encode())

  def do_POST(self):
    """Answers as the last text asks for."""
    body = json.loads(self.rfile.read(int(self.headers['content-length'])))
    content = body['messages'][-1]['content']
    text = content if isinstance(content, str) else ' '.join(
        part['text'] for part in content if part['type'] == 'text')
    with LOCK:
      STATE['calls'] += 1
      STATE['now'] += 1
      STATE['most'] = max(STATE['most'], STATE['now'])
      STATE['bodies'].append(dict(body, messages=[
          dict(message, content=re.sub(r'base64,[^"]+', 'base64,', json.dumps(message['content'])))
          for message in body['messages']]))
      TRIES[text] = TRIES.get(text, 0) + 1
    if slow := re.search(r'\[slow ([\d.]+)\]', text):
      time.sleep(float(slow[1]))
    with LOCK:  # before the answer, after which the caller may ask anew at once
      STATE['now'] -= 1
    self._answer(body, text, TRIES[text])

  def _answer(self, body, text, tries):
    fails = re.search(r'\[fails (\d+)\]', text)
    if self.headers['authorization'] != 'Bearer right':
      return self._send(401, b'{"error": {"message": "no such key"}}')
    if fails and tries <= int(fails[1]):
      return self._send(500, b'{"error": {"message": "out of order"}}')
    if '[busy]' in text and tries == 1:
      return self._send(429, b'{"error": {"message": "too many"}}', {'retry-after-ms': '20'})
    if '[malformed]' in text or '[malformed once]' in text and tries == 1:
      return self._send(200, b'<html>nothing here</html>')
    said = re.search(r'\[echo (.*?)\]$', text, re.DOTALL)
    answer = dict(id='1', object='chat.completion', created=1, model=body['model'] + '-1',
                  usage=dict(prompt_tokens=10, completion_tokens=3, total_tokens=13), choices=[])
    if '[empty]' not in text:
      answer['choices'] = [dict(
          index=0, finish_reason='length' if '[cut]' in text or body.get('logprobs') else 'stop',
          message=dict(role='assistant', content=said[1] if said else 'Score: 1'))]
    if body.get('logprobs'):
      tops = [dict(token=token, logprob=logprob, bytes=None) for token, logprob in (
          ('Yes', -0.6931472), (' yes', -2.0794415), ('No', -1.0))]
      answer['choices'][0]['logprobs'] = dict(content=[dict(tops[0], top_logprobs=tops)])
    data = json.dumps(answer).encode()
    if '[torn]' in text:
      self.close_connection = True
      self.send_response(200)
      self.send_header('content-type', 'application/json')
      self.send_header('content-length', str(len(data)))
      self.end_headers()
      self.wfile.write(data[:20])
      return None
    return self._send(200, data)

  def _send(self, status, data, headers=None):
    self.send_response(status)
    for name, value in {'content-type': 'application/json', 'content-length': str(len(data)),
                        **(headers or {})}.items():
      self.send_header(name, value)
    self.end_headers()
    self.wfile.write(data)


class Server(http.server.ThreadingHTTPServer):
  """Takes as many connections at once as there are."""

  request_queue_size = 64
  daemon_threads = True


if __name__ == '__main__':
  server = Server(('127.0.0.1', 0), Handler)
  print(server.server_port, flush=True)
  server.serve_forever()
