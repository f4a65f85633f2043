"""The full-size synthetic Gemma 3 1B: the reference's logits against the kernels'."""

import pytest

import reference
import zerfoo_numba
from tests.parity.compare import assert_close
from tests.parity.tolerances import LAYER, MODEL
from zerfoo_numba.synth import synthesize

pytestmark = pytest.mark.slow
IDS = [2, 5000]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    file = tmp_path_factory.mktemp("full") / "gemma3-1b.gguf"
    synthesize("gemma3-1b", file)
    return file


def test_every_layer_and_the_head(path, device_name):
    expected = reference.load_model(path).taps(IDS)
    model = zerfoo_numba.load_model(
        path,
        device=device_name,
        context=16,
        activation="float",
        cache_type="f32",
    )
    inputs = {name: array for name, array in expected.items() if name.endswith(".input")}
    actual = model.taps(IDS, inputs=inputs)
    for name, want in expected.items():
        assert_close(name, actual[name], want, LAYER["float"])
    del actual
    want = expected["result_output"]
    model.prefill(IDS[:1])
    assert_close("decode", model.decode(IDS[1]), want[1], MODEL["gemma3-1b"])
