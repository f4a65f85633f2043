"""What is remembered of memory: which bytes were ever written, and who touched them last.

Times are numbers of memory instructions executed so far; threads are numbered over the grid.
"""

import numpy as np

NOBODY = -1
_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


class Written:
    """Which of `nbytes` bytes have been written; uploads are kept as a list until checks ask."""

    def __init__(self, nbytes, whole=False):
        self.nbytes, self.whole = nbytes, whole or nbytes == 0
        self.pieces, self.flags = [], None

    def mark(self, start, end):
        """Bytes `start` to `end` are uploaded."""
        if self.whole or (start <= 0 and end >= self.nbytes):
            self.whole, self.pieces, self.flags = True, [], None
        elif self.flags is not None:
            self.flags[start:end] = 1
        else:
            self.pieces.append((start, end))

    def forget(self, start, end):
        """Bytes `start` to `end` hold nothing that may be read any more."""
        if self.whole:
            self.pieces, self.flags = [], None
        self._array()[start:end] = 0
        self.whole = False

    def _array(self):
        if self.flags is None:
            self.flags = np.full(-(-self.nbytes // 16) * 16, self.whole, np.uint8)
            for start, end in self.pieces:
                self.flags[start:end] = 1
        return self.flags

    def holds(self, offset, size):
        """Per lane: have all `size` bytes at `offset` been written?"""
        return self._pieces(offset, size, lambda view, at, ones: view[at] == ones)

    def store(self, offset, size):
        """A kernel writes `size` bytes at each `offset`."""
        if not self.whole:
            self._pieces(offset, size, lambda view, at, ones: view.__setitem__(at, ones))

    def _pieces(self, offset, size, act):
        unit = min(size, 8)
        view, ones = self._array().view(_UNSIGNED[unit]), int.from_bytes(b"\1" * unit, "little")
        done = act(view, offset // unit, ones)
        return done if size <= 8 else [done, act(view, offset // unit + 1, ones)]


class Accesses:
    """The last accesses to each granule of a memory: writer, first reader since, another one.

    A granule is as small as the smallest access so far. `*_at` is the time, `*_by` the thread + 1
    (all zeros take up no memory), `*_in` the number of the instruction.
    """

    KINDS = ("write", "read", "other")

    def __init__(self, nbytes, granule):
        self.granule = granule
        count = nbytes // granule + 16
        for kind in self.KINDS:
            for part in ("by", "at", "in"):
                setattr(self, f"{kind}_{part}", np.zeros(count, np.int32))
        self.written = False
        self.strong = np.zeros(count, bool)  # the last write was atomic or volatile
        self.released = None

    def refine(self, granule):
        """Make the granules no larger than `granule` bytes."""
        if granule < self.granule:
            times = self.granule // granule
            for name, value in vars(self).items():
                if isinstance(value, np.ndarray):
                    setattr(self, name, np.repeat(value, times))
            self.granule = granule

    def record(self, kind, at, thread, now, instruction):
        self.written |= kind == "write"
        getattr(self, f"{kind}_by")[at] = thread + 1
        getattr(self, f"{kind}_at")[at] = now
        getattr(self, f"{kind}_in")[at] = instruction

    def last(self, kind, at):
        """(thread or NOBODY, time, instruction) of the last access of a kind, per lane."""
        by, when, item = (getattr(self, f"{kind}_{part}")[at] for part in ("by", "at", "in"))
        return by - 1, when, item

    def who(self, kind, at):
        """The thread of the last access of a kind, per lane."""
        return getattr(self, f"{kind}_by")[at] - 1

    def release(self, at, time):
        """An atomic or strong store publishes what its thread did until `time`."""
        if self.released is None:
            self.released = np.zeros(len(self.strong), np.int32)
        np.maximum.at(self.released, at, time)
