"""Random blocks of every format with ordinary scales, for the tests of products."""

import numpy as np

from zerfoo_numba.quant import QUANTS

# Where the float16 scales of a block stand.
HALF_FIELDS = {
    **dict.fromkeys(("Q4_0", "Q5_0", "Q8_0", "IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S"), (0,)),
    **dict.fromkeys(("IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS"), (0,)),
    **dict.fromkeys(("Q4_1", "Q5_1", "Q4_K", "Q5_K"), (0, 2)),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q6_K": (208,),
    "TQ1_0": (52,),
    "TQ2_0": (64,),
}


def random_blocks(rng, type_name, N, K):
    """The bytes, uint8, of a random (N, K) matrix whose values are neither huge nor all alike."""
    quant = QUANTS[type_name]
    if quant.block_size == 1:
        return _floats(rng.standard_normal(N * K).astype(np.float32), type_name)
    data = rng.integers(0, 256, (N * K // quant.block_size, quant.block_bytes), np.uint8)
    for at in HALF_FIELDS.get(type_name, ()):
        d = rng.uniform(-0.01, 0.01, len(data)).astype("<f2")
        data[:, at : at + 2] = d.view(np.uint8).reshape(-1, 2)
    if type_name in _OTHER_SCALES:
        _OTHER_SCALES[type_name](rng, data)
    return np.ascontiguousarray(data).reshape(-1)


def _floats(values, type_name):
    if type_name == "BF16":
        return (values.view(np.uint32) >> 16).astype("<u2").view(np.uint8)
    return values.astype({"F32": "<f4", "F16": "<f2"}[type_name]).view(np.uint8)


def _mxfp4(rng, data):
    data[:, 0] = rng.integers(118, 130, len(data))


def _nvfp4(rng, data):
    data[:, :4] = rng.integers(40, 70, (len(data), 4))


def _iq1_m(rng, data):
    """The float16 scale lies in the top nibbles of bytes 49, 51, 53 and 55, lowest first."""
    d = rng.uniform(0.001, 0.01, len(data)).astype("<f2").view("<u2")
    nibbles = (d[:, None] >> np.array([0, 4, 8, 12]) & 15).astype(np.uint8)
    data[:, 49::2] = data[:, 49::2] & 15 | nibbles << 4


def _float8(rng, data):
    """A float32 scale, then codes below the NaN and infinity codes."""
    data[:, :4] = rng.uniform(0.01, 0.1, len(data)).astype("<f4").view(np.uint8).reshape(-1, 4)
    data[:, 4:] = rng.integers(0, 2, (len(data), 32)) << 7 | rng.integers(0, 100, (len(data), 32))


_OTHER_SCALES = {
    "MXFP4": _mxfp4, "NVFP4": _nvfp4, "IQ1_M": _iq1_m, "F8_E4M3": _float8, "F8_E5M2": _float8,
}  # fmt: skip
