"""Rung "layer": every tap of every layer, each layer fed with the reference's own input."""

import pytest

from tests.parity.compare import assert_close
from tests.parity.conftest import golden_model, golden_reference, golden_tokens
from tests.parity.tolerances import FOREIGN, LAYER


def check_layers(model, reference_model, ids):
    """Every tap the reference has, in its order, against the model's."""
    expected = reference_model.taps(ids)
    inputs = {name: array for name, array in expected.items() if name.endswith(".input")}
    actual = model.taps(ids, inputs=inputs)
    assert list(actual) == list(expected)
    for name, want in expected.items():
        assert_close(name, actual[name], want, LAYER["float"])


@pytest.mark.parametrize("name", FOREIGN)
def test_layers(name, device_name):
    model, expected = golden_model(name, device_name), golden_reference(name)
    check_layers(model, expected, golden_tokens(name, "long"))
