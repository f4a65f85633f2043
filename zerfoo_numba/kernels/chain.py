"""chain: several device functions as one, where a factory makes as many as a shape asks for."""

from numba import cuda


def chain(functions):
    """The device functions, called one after another with the same arguments."""
    if len(functions) == 1:
        return functions[0]
    first, others = functions[0], chain(functions[1:])

    @cuda.jit(device=True, forceinline=True)
    def both(*args):
        first(*args)
        others(*args)

    return both
