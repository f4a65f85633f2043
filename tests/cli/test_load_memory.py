"""What a load leaves in memory: the weights once, and none of the file's pages. Linux only."""

import subprocess
import sys
from pathlib import Path

import pytest

from zerfoo_numba import open_gguf, synth

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc/self/status"),
]

# In a process of its own, where nothing else was allocated. A tiny model is loaded first, so that
# the interpreter, the libraries and the compiled kernels are not counted. Prints bytes: what
# loading added, the most that it added on the way, and the size of the KV cache.
MEASURE = """
import re, sys
import zerfoo_numba

def status(key):
    with open("/proc/self/status") as file:
        return 1024 * int(re.search(key + r":\\s+(\\d+)", file.read())[1])

small, large, context = sys.argv[1], sys.argv[2], int(sys.argv[3])
zerfoo_numba.load_model(small, device="cpu").generate("a", max_tokens=2)
before = status("VmRSS")
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the high-water mark starts again
model = zerfoo_numba.load_model(large, device="cpu", context=context)
added, most = status("VmRSS") - before, status("VmHWM") - before
cache = sum(b.nbytes for layer in model.walk.cache.layers for b in (layer.k, layer.v))
print(added, most, cache)
"""


def test_a_loaded_model_is_within_115_percent_of_its_file(tmp_path):
    small, large = tmp_path / "small.gguf", tmp_path / "large.gguf"
    synth.synthesize("gemma3-tiny", small)
    synth.synthesize("gemma3-1b", large)
    file = sum(tensor.data.nbytes for tensor in open_gguf(large).tensors.values())
    command = [sys.executable, "-c", MEASURE, str(small), str(large), "1024"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    added, most, cache = map(int, done.stdout.split())
    assert file < added, "the weights are not in memory"
    assert added <= 1.15 * file + cache
    assert most <= 1.25 * file + cache  # some of the file's pages, while they are read
