"""What the driver says when it refuses, as errors of this package."""

import contextlib

from zerfoo_numba.errors import DeviceError


def checked(answer, failure):
    """The values a driver call returned after its status; DeviceError with `failure` otherwise."""
    error, *values = answer
    if error != 0:
        raise DeviceError(f"{failure} ({getattr(error, 'name', error)})")
    return values[0] if len(values) == 1 else tuple(values)


@contextlib.contextmanager
def reported(failure, remedy=None):
    """Whatever cuda.core raises (its own class is not exported) becomes a DeviceError."""
    try:
        yield
    except Exception as error:
        advice = f"; {remedy}" if remedy else ""
        raise DeviceError(f"{failure} ({reason(error)}){advice}") from error


def reason(error):
    """`CUDA_ERROR_NO_DEVICE` out of cuda.core's paragraph on it, else the first sentence."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].split(": ")[0] if text.startswith("CUDA_") else text.split(". ")[0]


def mib(nbytes):
    return f"{nbytes / 2**20:,.0f} MiB"
