"""Copies that the host does not wait for, and launches that overlap, on the stub driver.

Run by test_cuda_device.py, not collected.
"""

import gc

import numpy as np
import pytest

from tests.ptx.cuda_on_stub import calls, launch_fill, stub
from zerfoo_numba.devices.cuda import CudaDevice
from zerfoo_numba.errors import DeviceError


@pytest.fixture
def device():
    return CudaDevice()


def test_a_copy_that_is_not_waited_for_has_what_was_there_when_it_was_asked_for(device):
    buffer = device.upload(np.arange(3, dtype=np.float32))
    first = device.fetch(buffer)
    launch_fill(device, buffer, 7.0)
    second = device.fetch(buffer.view((1,), 2))
    synchronized = calls("cuStreamSynchronize")
    assert second.result().tolist() == [7.0]
    assert first.result().tolist() == [0.0, 1.0, 2.0]
    assert calls("cuStreamSynchronize") == synchronized
    assert first.result() is first.result()
    locked = calls("cuMemHostAlloc")
    assert device.fetch(buffer).result().tolist() == [7.0] * 3
    assert calls("cuMemHostAlloc") == locked
    with pytest.raises(DeviceError, match="inside a capture"):
        device.capture(lambda: device.fetch(buffer))


def test_launches_are_programmatic_where_that_is_asked_for(device):
    before = stub.stub_programmatic_launches()
    out = device.empty(4)
    launch_fill(device, out, 1.0)
    assert stub.stub_programmatic_launches() == before
    other = CudaDevice(programmatic=True)
    out = other.empty(4)
    graph = other.capture(lambda: [launch_fill(other, out, value) for value in (2.0, 3.0)])
    assert stub.stub_programmatic_launches() == before + 2
    graph.replay()
    assert other.read(out).tolist() == [3.0] * 4


def test_page_locked_memory_is_given_back():
    def copied():
        device = CudaDevice()
        return device.fetch(device.upload(np.ones(5))).result()

    freed = calls("cuMemFreeHost")
    assert copied().tolist() == [1.0] * 5
    gc.collect()
    assert calls("cuMemFreeHost") == freed + 1
