"""What a model remembers of its sequence, as named arrays: to go on with it later, or elsewhere.

The arrays are `model` (which model it is), `ids` (the tokens so far) and what each layer carries:
keys and values of every token, or the state of a recurrent block. `numpy.savez` keeps them.
"""

import numpy as np

from zerfoo_numba.errors import ContextError, InputError, UnsupportedError


def save(session):
    """{name: array} of the sequence that `session` remembers.

    Errors: UnsupportedError where images are part of it.
    """
    if session.walk.pictures:
        raise UnsupportedError("a sequence with images cannot be saved; start one of text alone")
    found = {
        "model": np.array(_identity(session)),
        "ids": np.array(session.history(0, session.length), np.uint32),
    }
    arrays = session.walk.cache.arrays(session.length)
    return found | {name: session.device.read(buffer) for name, buffer in arrays.items()}


def fitting(session, state):
    """(ids, [(buffer, array), ...]): the tokens of `state`, as `save` made it, and where each array
    belongs in `session`.

    Errors: InputError for the state of another model or cache type, ContextError for one that is
    longer than the context.
    """
    held = str(state["model"]) if "model" in state else "no model"
    if held != _identity(session):
        raise InputError(f"the state is one of {held}, not of {_identity(session)}")
    ids = np.asarray(state["ids"], np.uint32)
    if len(ids) > session.context:
        raise ContextError(
            f"the state has {len(ids)} tokens, the context {session.context}; load the model with "
            "a larger one"
        )
    places = []
    for name, buffer in session.walk.cache.arrays(len(ids)).items():
        array = state[name] if name in state else np.empty(0)
        if (array.shape, array.dtype) != (buffer.shape, buffer.dtype):
            raise InputError(
                f"the state's {name} is {array.dtype} {array.shape}, here it is {buffer.dtype} "
                f"{buffer.shape}; load the model with the device and cache type of the state"
            )
        places.append((buffer, array))
    return ids, places


def _identity(session):
    config = session.config
    return f"{config.arch} {config.name}, {config.L} layers of {config.D}"
