"""Where a kernel's array lies, as a number that inline PTX can take."""

from numba.cuda import types
from numba.cuda.extending import intrinsic


@intrinsic
def address_of(typing_context, array):
    """The generic address of the first element of an array, or of what a pointer points to."""

    def generate(context, builder, signature, values):
        data = values[0]
        if isinstance(array, types.Array):
            data = context.make_array(array)(context, builder, value=data).data
        return builder.ptrtoint(data, context.get_value_type(types.uint64))

    return types.uint64(array), generate
