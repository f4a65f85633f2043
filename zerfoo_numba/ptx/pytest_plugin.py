"""Numba-CUDA tests without a GPU: pytest -p zerfoo_numba.ptx.pytest_plugin --without-gpu cpu

or `pytest_plugins = ["zerfoo_numba.ptx.pytest_plugin"]` in a conftest. `--without-gpu` stands in
for the GPU from the first import of a test to the last test; the fixture `without_gpu` does for
one test, and gives the machine: `.launches` is what ran. The marker of the same name chooses:
`@pytest.mark.without_gpu("cpu")`, `@pytest.mark.without_gpu("emulator", seed=3)`.
"""

import pytest


def pytest_addoption(parser):
    parser.addoption(
        "--without-gpu",
        choices=("emulator", "cpu"),
        help="run numba.cuda on the PTX emulator with its checks, or as code of the CPU",
    )


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "without_gpu(device, **options): what the fixture without_gpu stands in with"
    )
    device = config.getoption("--without-gpu")
    if device is not None:
        from zerfoo_numba.ptx.stand_in.children import inherit, start

        inherit(device)
        start(device)


@pytest.fixture
def without_gpu(request):
    """The machine that stands in for the GPU during this test."""
    from zerfoo_numba.ptx.stand_in import library
    from zerfoo_numba.ptx.stand_in import without_gpu as stand_in

    if library.state.machine is not None:  # --without-gpu
        yield library.state.machine
        return
    marker = request.node.get_closest_marker("without_gpu")
    with stand_in(*(marker.args if marker else ()), **(marker.kwargs if marker else {})) as found:
        yield found
