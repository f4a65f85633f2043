"""Whole models through the `cuda` device: the stub driver hands each launch to the PTX emulator.

So all of the device but the hardware is at work: compiling, linking, launching, capture, replay.
Run by test_cuda_device.py, not collected.
"""

import json
from pathlib import Path

import numpy as np
import pytest

import zerfoo_numba
from tests.ptx.cuda_on_stub import BODY, calls, parameter, register
from zerfoo_numba.devices.cuda import CudaDevice
from zerfoo_numba.devices.cuda_fetch import Copy
from zerfoo_numba.ptx.compile import Pointer, compile_ptx
from zerfoo_numba.ptx.emulator import Memory, load
from zerfoo_numba.sampling import Sampler

GOLDEN = Path(__file__).parent.parent / "parity" / "golden"
STEPS = 4


class EmulatedGpu(CudaDevice):
    """Its memory is the emulator's, at the emulator's addresses plus those of the host."""

    def __init__(self):
        super().__init__()
        self.memory = Memory()
        self.base = self.memory.bytes.ctypes.data
        self.bodies = []

    def allocate(self, nbytes, name, element):
        return self.base + self.memory.allocate(nbytes, name=name, element=element)

    def release(self, address):
        self.memory.free(address - self.base)

    def load(self, kernel, types):
        ptx = compile_ptx(kernel, types, self.cc)
        program = load(ptx)
        kinds = [np.dtype(np.uint64 if isinstance(t, Pointer) else t.dtype) for t in types]

        def run(shape, parameters):
            values = [
                parameter(parameters, i, np.ctypeslib.as_ctypes_type(kind))
                - (self.base if isinstance(types[i], Pointer) else 0)
                for i, kind in enumerate(kinds)
            ]
            values = [kind.type(v) for kind, v in zip(kinds, values, strict=True)]
            grid, block = tuple(shape[:3]), tuple(shape[3:6])
            program.run(self.memory, grid, block, values, shared=shape[6])

        self.bodies.append(register(ptx.entry, [k.itemsize for k in kinds], BODY(run)))
        return super().load(kernel, types)


@pytest.fixture(params=["gemma3_default", "gemma3_Q4_K_M"])
def golden(request):
    """(path, prompt ids) of a small Gemma 3."""
    folder = GOLDEN / request.param
    return folder / "model.gguf", json.loads((folder / "tokens.json").read_text())["short"]


def greedy(path, ids, device, graph):
    options = {"context": 64, "activation": "float", "graph": graph}
    model = zerfoo_numba.load_model(path, device=device, **options)
    chosen = model.greedy_ids(ids, STEPS)
    return model, chosen, model.decode(chosen[-1])


def test_replay_on_cuda_equals_eager_on_the_emulator(golden):
    path, ids = golden
    _, expected, expected_logits = greedy(path, ids, "emulator", graph=False)
    model, chosen, logits = greedy(path, ids, EmulatedGpu(), graph=True)
    assert chosen == expected
    assert np.array_equal(logits, expected_logits)
    assert model.stats.graph_share > 0


def test_a_replayed_step_launches_nothing_but_the_graph(golden):
    path, ids = golden
    model, _, _ = greedy(path, ids, EmulatedGpu(), graph=True)
    before = calls("cuLaunchKernelEx"), calls("cuGraphLaunch"), calls("cuMemAlloc")
    model.continue_greedy(3)
    assert calls("cuLaunchKernelEx") == before[0]
    assert calls("cuGraphLaunch") == before[1] + 3
    assert calls("cuMemAlloc") == before[2]


@pytest.mark.parametrize("sampler", [None, Sampler(0.9, seed=4)], ids=["greedy", "sampled"])
def test_the_next_step_is_launched_before_an_id_is_read(golden, monkeypatch, sampler):
    path, ids = golden
    model = zerfoo_numba.load_model(path, device=EmulatedGpu(), context=64, activation="float")
    plain = zerfoo_numba.load_model(path, device="emulator", context=64, activation="float")
    before, launched, result = calls("cuGraphLaunch"), [], Copy.result

    def noting(copy):
        launched.append(calls("cuGraphLaunch") - before)
        return result(copy)

    monkeypatch.setattr(Copy, "result", noting)
    assert list(model.stream_ids(ids, 5, sampler)) == list(plain.stream_ids(ids, 5, sampler))
    assert launched == [1, 2, 3, 4, 4]  # and no step whose id nobody asked for
    places = calls("cuMemHostAlloc")
    list(model.stream_ids(ids, 5, sampler))
    assert calls("cuMemHostAlloc") == places


def test_a_stream_that_ends_early_leaves_the_sequence_as_it_was_read(golden):
    path, ids = golden
    found = []
    for device in (EmulatedGpu(), "emulator"):
        model = zerfoo_numba.load_model(path, device=device, context=64, activation="float")
        stream = model.stream_ids(ids, 20)
        given = [next(stream) for _ in range(3)]
        stream.close()
        logits = model.decode(given[-1])
        found.append((given, model.length, model.history(0, model.length), logits.tolist()))
    assert found[0] == found[1]
