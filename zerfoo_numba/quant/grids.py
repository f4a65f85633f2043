"""The lattice points of the IQ formats as constant tables for kernels."""

import base64
from pathlib import Path

import numpy as np

SOURCE = Path(__file__).parent.parent / "data" / "iq_grids.txt"


def points():
    """{grid name: (levels, digits (points, dimension))}, as the head of the data file explains."""
    grids = {}
    for line in SOURCE.read_text().splitlines():
        if line.startswith("#"):
            continue
        name, levels, dimension, bitmap = line.split()
        levels = tuple(int(v) for v in levels.split(","))
        bits = np.unpackbits(np.frombuffer(base64.b85decode(bitmap), np.uint8), bitorder="little")
        place = len(levels) ** np.arange(int(dimension))
        grids[name] = levels, np.flatnonzero(bits)[:, None] // place % len(levels)
    return grids


def packed(digits, bits):
    """A point as one uint16: digit j at bit `bits` * j."""
    return (digits << bits * np.arange(digits.shape[1])).sum(axis=1).astype(np.uint16)


_points = points()
IQ1 = packed(_points["IQ1"][1], 2)
IQ2_XXS, IQ2_XS, IQ2_S = (packed(_points[f"IQ2_{size}"][1], 2) for size in ("XXS", "XS", "S"))
IQ3_XXS, IQ3_S = (packed(_points[f"IQ3_{size}"][1], 3) for size in ("XXS", "S"))
