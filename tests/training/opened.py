"""How many files another process has opened in a folder so far, by Linux's inotify."""

import ctypes
import os
import struct

IN_OPEN, IN_ISDIR, IN_NONBLOCK = 0x20, 0x40000000, 0o4000
_HEADER = struct.Struct('iIII')


class Opened:
  """Counts the opens of files in a folder and its subfolders; called, says whether it is enough.

  Args:
    folder: that exists.
    enough: number of opens.
  """

  def __init__(self, folder, enough):
    self._left = enough
    libc = ctypes.CDLL(None, use_errno=True)
    self._queue = libc.inotify_init1(IN_NONBLOCK)
    for inner, _, _ in os.walk(folder):
      assert libc.inotify_add_watch(self._queue, os.fsencode(inner), IN_OPEN) >= 0, inner

  def __call__(self):
    try:
      data = os.read(self._queue, 1 << 16)
    except BlockingIOError:
      return False
    while data:
      _, mask, _, length = _HEADER.unpack_from(data)
      self._left -= not mask & IN_ISDIR
      data = data[_HEADER.size + length:]
    return self._left <= 0
