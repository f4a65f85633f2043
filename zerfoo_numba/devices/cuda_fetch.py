"""Copies from the GPU that the host does not wait for: into page-locked memory, one event each."""

import contextlib
import ctypes

import numpy as np

from zerfoo_numba.devices.cuda_errors import checked


class Landings:
    """Page-locked places where copies land, used again once their contents were taken.

    `here` is the GPU as the thread that asks sees it, with its driver and its stream.
    """

    def __init__(self, here):
        self._here, self._free = here, []

    def fetch(self, buffer):
        """A Copy of `buffer` under way, in the order of what the stream was given."""
        fits = (place for place in self._free if place.nbytes >= buffer.nbytes)
        place = next(fits, None)
        if place is None:
            place = Place(self._here, max(buffer.nbytes, 1))
        else:
            self._free.remove(place)
        driver, stream = self._here.driver, self._here.stream.handle
        copied = driver.cuMemcpyDtoHAsync(place.address, buffer.address, buffer.nbytes, stream)
        checked(copied, "a copy failed")
        checked(driver.cuEventRecord(place.event, stream), "an event could not be recorded")
        return Copy(self, place, buffer)

    def give_back(self, place):
        self._free.append(place)


class Place:
    """`nbytes` of page-locked memory at `address`, and the `event` of the last copy into it."""

    def __init__(self, here, nbytes):
        self._here, self.nbytes = here, nbytes
        driver = here.driver
        self.address = self.event = None
        address = checked(driver.cuMemHostAlloc(nbytes, 0), "no page-locked memory could be had")
        self.address = int(address)
        untimed = driver.CUevent_flags.CU_EVENT_DISABLE_TIMING
        self.event = checked(driver.cuEventCreate(untimed), "an event could not be made")

    def __del__(self):
        # At any time, even at the interpreter's end, and not before a copy has landed here.
        with contextlib.suppress(Exception):
            driver = self._here.driver
            if self.event is not None:
                driver.cuEventSynchronize(self.event)
                driver.cuEventDestroy(self.event)
            if self.address is not None:
                driver.cuMemFreeHost(self.address)


class Copy:
    """A copy under way; `result` waits for it, and for nothing that was launched after it."""

    def __init__(self, landings, place, buffer):
        self._landings, self._place, self._buffer = landings, place, buffer
        self._array = None

    def result(self):
        if self._array is None:
            place, driver = self._place, self._landings._here.driver
            failure = "the GPU failed in an earlier launch"
            checked(driver.cuEventSynchronize(place.event), failure)
            buffer = self._buffer
            landed = (ctypes.c_uint8 * buffer.nbytes).from_address(place.address)
            self._array = np.frombuffer(landed, buffer.dtype).reshape(buffer.shape).copy()
            self._place = self._buffer = None
            self._landings.give_back(place)
        return self._array
