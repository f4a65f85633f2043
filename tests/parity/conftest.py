"""Devices and models that the parity ladder runs on."""

import functools
import json
from pathlib import Path

import pytest

import reference
import zerfoo_numba
from zerfoo_numba.devices import open_device
from zerfoo_numba.errors import DeviceError

GOLDEN = Path(__file__).parent / "golden"


@functools.cache
def device_names():
    """Every device of this machine."""
    try:
        open_device("cuda")
    except DeviceError:
        return ("emulator", "cpu")
    return ("emulator", "cpu", "cuda")


def pytest_addoption(parser):
    parser.addoption("--device", action="append", help="run on this device only; may be repeated")


def pytest_generate_tests(metafunc):
    if "device_name" in metafunc.fixturenames:
        names = metafunc.config.getoption("--device") or device_names()
        if metafunc.definition.get_closest_marker("slow_on_cpu"):
            slow = pytest.param("cpu", marks=pytest.mark.slow)
            names = [slow if name == "cpu" else name for name in names]
        metafunc.parametrize("device_name", names, scope="session")


@pytest.fixture(scope="session")
def device(device_name):
    return open_device(device_name)


@functools.cache
def golden_reference(name):
    """The reference model of a golden file, float32."""
    return reference.load_model(GOLDEN / name / "model.gguf")


@functools.cache
def golden_model(name, device_name, **options):
    """The runtime's model of a golden file, exact unless `options` say otherwise."""
    options = {"context": 64, "activation": "float", "cache_type": "f32"} | options
    path = GOLDEN / name / "model.gguf"
    return zerfoo_numba.load_model(path, device=device_name, **options)


def golden_tokens(name, length):
    """The ids of a golden's "short" (7) or "long" (40) prompt."""
    return json.loads((GOLDEN / name / "tokens.json").read_text())[length]
