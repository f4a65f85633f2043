"""Driver API: streams and events. Whatever is asked for is done before the call returns.

So a stream is its number, and an event the time at which it was recorded.
Reference: NVIDIA, CUDA Driver API, modules "Stream Management" and "Event Management".
"""

import ctypes
import time

from zerfoo_numba.ptx.stand_in.api_device import CONTEXT
from zerfoo_numba.ptx.stand_in.library import (
    INVALID_HANDLE,
    NOT_SUPPORTED,
    Handles,
    Refusal,
    driver_function,
    put,
    put_int,
    put_pointer,
)

_NO_TIMING = 2  # of an event's flags
streams, events = Handles(0x5000), Handles(0xE000)
_callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
_host_function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Event:
    """`time` in seconds, None until recorded."""

    def __init__(self, timed):
        self.timed, self.time = timed, None


@driver_function("pu", "cuStreamCreate")
def stream_create(result, flags):
    put_pointer(result, streams.add(flags))


@driver_function("pui", "cuStreamCreateWithPriority")
def stream_create_with_priority(result, flags, priority):
    put_pointer(result, streams.add(flags))


@driver_function("q", "cuStreamDestroy", quiet=True)
def stream_destroy(stream):
    streams.pop(stream)


@driver_function("q", "cuStreamSynchronize", "cuStreamQuery")
def stream_synchronize(stream):
    """Nothing is ever under way."""


@driver_function("qqu", "cuStreamWaitEvent")
def stream_wait(stream, event, flags):
    """Every event has happened."""


@driver_function("qp", "cuStreamGetCtx")
def stream_context(stream, result):
    put_pointer(result, CONTEXT)


@driver_function("qp", "cuStreamGetFlags")
def stream_flags(stream, result):
    put_int(result, streams[stream] if stream > 2 else 0)


@driver_function("qp", "cuStreamGetPriority", "cuStreamGetDevice", "cuStreamIsCapturing")
def stream_zero(stream, result):
    put_int(result, 0)


@driver_function("qp", "cuStreamGetId")
def stream_number(stream, result):
    put(result, ctypes.c_uint64, stream)


@driver_function("qpppppp", "cuStreamGetCaptureInfo")
def stream_capture_info(stream, status, number, graph, nodes, edges, count):
    put_int(status, 0)


@driver_function("qi", "cuStreamBeginCapture")
def stream_capture(stream, mode):
    raise Refusal(NOT_SUPPORTED)


@driver_function("p", "cuThreadExchangeStreamCaptureMode")
def capture_mode(mode):
    """Nothing is ever captured."""


@driver_function("qppu", "cuStreamAddCallback")
def stream_callback(stream, function, data, flags):
    _callback(function)(stream, 0, data)


@driver_function("qpp", "cuLaunchHostFunc")
def stream_host_function(stream, function, data):
    _host_function(function)(data)


@driver_function("pu", "cuEventCreate")
def event_create(result, flags):
    put_pointer(result, events.add(Event(not flags & _NO_TIMING)))


@driver_function("qq", "cuEventRecord")
def event_record(event, stream):
    events[event].time = time.perf_counter()


@driver_function("qqu", "cuEventRecordWithFlags")
def event_record_with_flags(event, stream, flags):
    event_record(event, stream)


@driver_function("q", "cuEventSynchronize", "cuEventQuery")
def event_synchronize(event):
    events[event]


@driver_function("pqq", "cuEventElapsedTime")
def event_elapsed(result, start, end):
    both = [events[start], events[end]]
    if any(e.time is None or not e.timed for e in both):
        raise Refusal(INVALID_HANDLE)
    put(result, ctypes.c_float, 1e3 * (both[1].time - both[0].time))


@driver_function("q", "cuEventDestroy", quiet=True)
def event_destroy(event):
    events.pop(event)
