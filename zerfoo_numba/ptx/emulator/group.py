"""Groups of lanes that stand at the same place.

A group of all lanes works on the wave's registers directly. A group of some gathers what it
reads, works on its own compact arrays, and scatters what others may need when it meets or leaves
them.
"""

import numpy as np

from zerfoo_numba.ptx.emulator.special import LASTING, SPECIAL
from zerfoo_numba.ptx.emulator.wave import taken

WARP = 32


class Group:
    """Lanes at one block. `lanes` are positions in the wave, ascending, or None for all."""

    def __init__(self, wave, lanes=None):
        self.wave, self.lanes = wave, lanes
        self.size = wave.size if lanes is None else len(lanes)
        self.registers = wave.registers if lanes is None else [None] * len(wave.registers)
        self.dirty = 0
        self.cache = {}

    def part(self, lanes):
        """The sub-group of these positions within the group; its registers are not usable."""
        return Group(self.wave, lanes if self.lanes is None else self.lanes[lanes])

    def remember(self, key, make, lasting=True):
        """`make()`, computed once for this set of lanes.

        What is `lasting` depends on the lanes' positions alone, and may serve other waves.
        """
        store = self.cache
        if self.lanes is None:
            layout = self.wave.layout
            store = self.wave.cache if layout is None or not lasting else layout
        if key not in store:
            store[key] = make()
        return store[key]

    def of_position(self, key, make):
        """`make(group)`, a value per lane that depends on its place in the wave alone."""
        if self.lanes is None:
            return self.remember(key, lambda: make(self))
        whole = self.wave.whole
        return self.remember(key, lambda: taken(whole.of_position(key, make), self.lanes))

    @property
    def slots(self):
        """Per lane: block position x padded block size + thread."""
        return self.of_position("slots", lambda g: g.wave.slots)

    def special(self, name):
        """The value of a special register for these lanes."""
        if name.startswith("%clock"):
            return SPECIAL[name](self)
        if name in LASTING:
            return self.of_position(name, SPECIAL[name])
        return self.remember(name, lambda: SPECIAL[name](self), lasting=False)

    @property
    def thread(self):
        """Linear thread number within the block."""
        return self.of_position("thread", lambda g: g.slots % g.wave.padded)

    @property
    def block(self):
        """Position of the block within the wave."""
        return self.of_position("block", lambda g: g.slots // g.wave.padded)

    @property
    def warp(self):
        """Number of the warp within the wave."""
        return self.of_position("warp", lambda g: g.slots // WARP)

    @property
    def laneid(self):
        return self.of_position("laneid", lambda g: g.slots % WARP)

    @property
    def whole_warps(self):
        """True if the lanes are full warps in order, so that arrays reshape to (-1, 32)."""
        return self.remember("whole", self._whole_warps)

    def _whole_warps(self):
        if self.size % WARP:
            return False
        table = self.slots.reshape(-1, WARP)
        return bool(
            (table == table[:, :1] + np.arange(WARP)).all() and not (table[:, 0] % 32).any()
        )

    @property
    def rows(self):
        """-> number of warps with a lane here, and each lane's row among them."""
        return self.remember("rows", self._rows)

    def _rows(self):
        new = np.empty(self.size, np.int64)
        new[0] = 0
        np.not_equal(self.warp[1:], self.warp[:-1], out=new[1:], casting="unsafe")
        rows = np.cumsum(new)
        return int(rows[-1]) + 1, rows

    @property
    def present(self):
        """Per row of `rows`: bit mask of the lanes that are here."""
        return self.remember("present", lambda: self.by_row(self.laneid))

    def by_row(self, laneid, chosen=None):
        """Per row, the bit mask of the lanes (those `chosen`)."""
        bits = np.left_shift(np.uint64(1), laneid.astype(np.uint64))
        if chosen is not None:
            bits = bits * chosen
        count, rows = self.rows
        return np.bincount(rows, bits.astype(np.float64), count).astype(np.uint32)

    def shared_base(self, shift):
        """Element number of the lane's block in the wave's shared memory; None for 0."""
        if self.wave.blocks == 1:
            return None
        stride = self.wave.shared_stride >> shift
        return self.of_position(("shared", stride), lambda g: g.block * stride)

    def local_base(self, shift):
        stride = self.wave.local_stride >> shift
        return self.of_position(("local", stride), lambda g: g.slots * stride)
