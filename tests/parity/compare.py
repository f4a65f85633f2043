"""Comparison of an array with the one it should be, and a failure message that says where."""

import numpy as np

from reference.diff import nmse


def assert_close(name, actual, expected, tolerance):
    """Fails unless the arrays have one shape and differ by no more than `tolerance`.

    tolerance: a `tests.parity.tolerances.Tolerance`; each bound it has must hold. The message has
    the name, shape, max abs, max rel, worst index and the first values of both.
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, (
        f"{name}: shape {actual.shape}, expected {expected.shape}"
    )
    assert actual.size, f"{name}: nothing to compare in shape {actual.shape}"
    assert np.isfinite(expected).all(), f"{name}: the expected array is not finite"
    error = np.abs(actual.astype(np.float64) - expected.astype(np.float64))
    error = np.where(np.isfinite(error), error, np.inf)
    found = {"nmse": nmse(actual, expected), "max_abs": float(error.max())}
    exceeded = [
        f"{measure} {found[measure]:.3e} > {bound:.3e}"
        for measure, bound in (("nmse", tolerance.nmse), ("max_abs", tolerance.max_abs))
        if bound is not None and not found[measure] <= bound
    ]
    assert not exceeded, describe(name, actual, expected, error, "; ".join(exceeded))


def describe(name, actual, expected, error, headline):
    """The lines of a failed comparison; error is |actual - expected|."""
    worst = tuple(int(i) for i in np.unravel_index(np.argmax(error), error.shape))
    magnitude = np.abs(expected.astype(np.float64))
    relative = np.divide(error, magnitude, out=np.full(error.shape, np.inf), where=magnitude > 0)
    relative[error == 0] = 0
    return "\n".join(
        [
            f"{name}: {headline}",
            f"  shape {actual.shape}, max abs {error.max():.3e}, max rel {relative.max():.3e}",
            f"  worst at {worst}: {actual[worst]:.9g}, expected {expected[worst]:.9g}",
            f"  first values: {_first(actual)}",
            f"  expected:     {_first(expected)}",
        ]
    )


def _first(array):
    return " ".join(f"{value:.7g}" for value in array.reshape(-1)[:6])
