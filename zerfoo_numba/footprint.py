"""What a model needs before it is loaded: memory, and the bytes that one token has to read.

Decoding a token reads every weight that takes part in it once, and the keys and values of what
came before. No kernel can be faster than that divided by the bandwidth of the memory.
"""

from dataclasses import dataclass

from zerfoo_numba.errors import OutOfMemoryError
from zerfoo_numba.gpu_memory import GPU_MEMORY

CACHE_BYTES = 2  # an element of the KV cache, f16
STATE_BYTES = 4  # an element of a recurrent state, float32


@dataclass(frozen=True)
class Footprint:
    """Bytes of a model with `context` tokens behind it. `weights` are those of the file (packed
    layouts add up to 3%); `read_weights` and `read_cache` what one more token reads."""

    context: int
    weights: int
    cache: int
    read_weights: int
    read_cache: int

    @property
    def memory(self):
        return self.weights + self.cache

    @property
    def read(self):
        return self.read_weights + self.read_cache


def footprint(gguf, config, context, key_bytes=None):
    """The Footprint of an open GGUF file. `key_bytes`: of a position's key and value in one KV
    head; those of an f16 cache by default."""
    each = config.KH * (key_bytes or CACHE_BYTES * (config.HD + config.VD))
    cache, read = _state(config) if config.recurrent else _cache(config, context, each)
    weights = sum(tensor.data.nbytes for tensor in gguf.tensors.values())
    return Footprint(context, weights, cache, _read_weights(gguf, config), read)


def most_tokens_per_s(footprint):
    """{GPU: tokens per second that its bandwidth allows}; None where the model does not fit."""
    return {
        name: memory.gb_per_s * 1e9 / footprint.read
        if footprint.memory <= memory.gb * 1e9
        else None
        for name, memory in GPU_MEMORY.items()
    }


def require_room(room, gguf, config, context, key_bytes):
    """Raise OutOfMemoryError where `room`, (free, total) bytes or None, cannot hold the model; the
    error names the contexts that would fit. `key_bytes` {cache type: bytes}: that in use first,
    then coarser ones."""
    (_, each), *coarser = key_bytes.items()
    if room is None or footprint(gguf, config, context, each).memory <= room[0]:
        return
    wanted = footprint(gguf, config, context, each)
    fits = _most_tokens(room, gguf, config, context, each)
    found = [f"a context of {fits} tokens would fit"] if fits else []
    for kind, each in coarser:
        more = _most_tokens(room, gguf, config, context, each)
        if more > fits:
            found.append(f"one of {more} with cache_type {kind!r}")
    advice = ", or ".join(found)
    if not found:
        advice = "no context makes it fit; use a smaller model or a coarser block format"
    size, cache, free, total = (_gb(n) for n in (wanted.weights, wanted.cache, *room))
    raise OutOfMemoryError(
        f"{gguf.path} needs {size} for its weights and {cache} for {context} tokens, and {free} "
        f"of {total} are free: {advice}"
    )


def _most_tokens(room, gguf, config, context, key_bytes):
    """The largest context that fits: `context` itself or a power of two below it; 0: none."""
    powers = [1 << n for n in reversed(range((context - 1).bit_length()))]
    fits = (
        n for n in (context, *powers) if footprint(gguf, config, n, key_bytes).memory <= room[0]
    )
    return next(fits, 0)


def _gb(nbytes):
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e7 else f"{nbytes / 1e6:.2f} MB"


def _read_weights(gguf, config):
    """Of the embedding one row, unless it is the head too; of the experts those that are used."""
    tied = "output.weight" not in gguf.tensors
    read = 0.0
    for name, tensor in gguf.tensors.items():
        share = 1.0
        if name == "token_embd.weight" and not tied:
            share = 1 / config.V
        elif name == "position_embd.weight":
            share = 1 / tensor.shape[-1]
        elif "_exps." in name:
            share = config.experts.U / config.experts.E
        elif name.startswith("rope_"):  # they went into the tables
            share = 0.0
        read += share * tensor.data.nbytes
    return round(read)


def _cache(config, context, each):
    """Bytes of the KV cache, and those that a token reads with `context` tokens behind it: in a
    layer with a window no more than that, and there is room for little more."""
    tokens = sum(min(context, layer.window or context) for layer in config.layers)
    return tokens * each, tokens * each


def _state(config):
    """Bytes of the recurrent state, and those that a token reads and writes."""
    kind = config.recurrent
    if config.spec.mixer == "mamba":
        elements = kind.I * (kind.N + kind.taps - 1)
    else:
        elements = kind.H * kind.W * kind.W + 2 * config.D
    size = config.L * elements * STATE_BYTES
    return size, 2 * size
