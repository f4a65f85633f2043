"""Random programs on the emulator against the same programs run thread by thread in Python."""

import numpy as np
import pytest

from tests.ptx.random_programs import REGISTERS, TABLE, Program
from zerfoo_numba.ptx.compile import Ptx
from zerfoo_numba.ptx.emulator import Memory, load

TABLE_DATA = np.random.default_rng(0).integers(0, 1 << 32, TABLE, dtype=np.uint32)


@pytest.mark.parametrize("exits", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_a_random_program(seed, exits):
    program = Program(seed, exits)
    grid, block = 3, 64 if seed % 2 else 96
    expected = program.expected(grid * block, block, TABLE_DATA)
    code = load(Ptx(program.ptx(), "k", (9, 0)))
    for options in ({}, {"checks": True}, {"seed": seed}):
        memory = Memory()
        table = memory.allocate(TABLE_DATA.nbytes, "table", 4)
        out = memory.allocate(expected.nbytes, "out", 4)
        memory.write(table, TABLE_DATA)
        code.run(memory, grid, block, [np.uint64(table), np.uint64(out)], **options)
        found = memory.read(out, np.uint32, (grid * block, REGISTERS))
        assert (found == expected).all(), f"{options}\n{program.ptx()}"
