"""Helper processes that run some waves of a launch beside the caller.

The lanes of a wave are NumPy calls of microseconds, too short for two Python threads to take
turns in; processes that share the arena scale. A helper starts when a launch first proves long
enough, takes part once it is ready, and ends with its parent.
"""

import atexit
import contextlib
import functools
import itertools
import os
import pickle
import signal
import socket
import subprocess
import sys
import weakref
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle

from zerfoo_numba.errors import DeviceError

_keys = itertools.count()


class Worker:
    """One helper process, as its parent sees it."""

    def __init__(self):
        own, other = socket.socketpair()
        module = "from zerfoo_numba.ptx.emulator.workers import serve; serve"
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(p or "." for p in sys.path)}
        with other:
            self.process = subprocess.Popen(
                [sys.executable, "-c", f"{module}({other.fileno()})"],
                pass_fds=[other.fileno()], env=environment, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        self.connection = Connection(own.detach())
        atexit.register(self.stop)
        self.ready = False
        self.known = {}  # key of a memory or program -> version it was last told of
        self.forgotten = []

    def stop(self):
        """End the process: it lives as long as its connection."""
        self.connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=2)

    def is_ready(self):
        """Has the process started, and is it alive?"""
        if not self.ready and self.connection.poll(0):
            self.ready = self.connection.recv() == "ready"
        return self.ready and self.process.poll() is None

    def start(self, program, memory, launch, waves):
        """Ask for some waves of a launch; `finish` waits for them."""
        new = [x for x in (program, memory) if key_of(x) not in self.known]
        if memory in new:
            weakref.finalize(memory, self.forgotten.append, key_of(memory))
        forgotten, self.forgotten[:] = list(self.forgotten), []
        message = {
            "forgotten": forgotten,
            "program": (key_of(program), program.ptx if program in new else None),
            "memory": (key_of(memory), memory.capacity if memory in new else None),
            "allocations": None,
            "launch": pickle.dumps(launch),
            "waves": waves,
        }
        if memory in new or self.known[key_of(memory)] != memory.version:
            message["allocations"] = memory.allocations()
        self.connection.send(message)
        if memory in new:
            send_handle(self.connection, memory.file, self.process.pid)
        self.known[key_of(program)] = 0
        self.known[key_of(memory)] = memory.version

    def finish(self):
        """Wait for the waves asked for; an error of the helper is raised here."""
        try:
            error = self.connection.recv()
        except (EOFError, OSError):
            workers.cache_clear()
            raise DeviceError("a helper process of the emulator has died; try again") from None
        if error is not None:
            raise error


def key_of(thing):
    """A number that names a program or a memory to the helpers."""
    if not hasattr(thing, "worker_key"):
        thing.worker_key = next(_keys)
    return thing.worker_key


@functools.cache
def workers(count):
    """`count` helper processes, started at the first call."""
    return [Worker() for _ in range(count)]


os.register_at_fork(after_in_child=workers.cache_clear)  # a child has no part in its parent's


def share(program, memory, launch, waves, parties):
    """Run `waves` in `parties` processes, this one among them; False if some are not ready."""
    helpers = workers(parties - 1)
    if not all(w.is_ready() for w in helpers):
        return False
    with memory.lock.between_processes():
        for i, worker in enumerate(helpers):
            worker.start(program, memory, launch, waves[i + 1 :: parties])
        try:
            for numbers in waves[::parties]:
                program.run_wave(memory, launch, numbers)
        finally:
            errors = []
            for worker in helpers:
                try:
                    worker.finish()
                except DeviceError as error:
                    errors.append(error)
        if errors:
            raise errors[0]
    return True


def serve(descriptor):
    """The life of a helper process."""
    from zerfoo_numba.ptx.emulator.memory import Memory
    from zerfoo_numba.ptx.emulator.program import load

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(descriptor)
    connection.send("ready")
    programs, memories = {}, {}
    with contextlib.suppress(EOFError, OSError):
        while True:
            message = connection.recv()
            for key in message["forgotten"]:
                memories.pop(key, None)
            key, capacity = message["memory"]
            if capacity is not None:
                memories[key] = Memory(capacity, recv_handle(connection))
            memory = memories[key]
            key, ptx = message["program"]
            if ptx is not None:
                programs[key] = load(ptx)
            if message["allocations"] is not None:
                memory.adopt(message["allocations"])
            connection.send(_run(programs[key], memory, message))


def _run(program, memory, message):
    """-> None, or the error of a wave."""
    try:
        launch = pickle.loads(message["launch"])
        with memory.lock.between_processes():
            for numbers in message["waves"]:
                program.run_wave(memory, launch, numbers)
    except DeviceError as error:
        return error
    except Exception as error:
        return DeviceError(f"a helper process of the emulator failed: {error!r}")
    return None
