"""Where a kernel's array lies, as a number that inline PTX can take."""

from numba.cuda import types
from numba.cuda.extending import intrinsic


@intrinsic
def address_of(typing_context, array):
    """The generic address of an array's first element."""

    def generate(context, builder, signature, values):
        data = context.make_array(signature.args[0])(context, builder, value=values[0]).data
        return builder.ptrtoint(data, context.get_value_type(types.uint64))

    return types.uint64(array), generate
