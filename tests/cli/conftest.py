import pytest

from zerfoo_numba import synth


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Path of the synthetic gemma3-tiny."""
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    synth.synthesize("gemma3-tiny", path)
    return path
