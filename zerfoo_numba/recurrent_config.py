"""The numbers of a recurrent model (Mamba, RWKV) in a file's metadata.

Dimension letters: D width, I inner width, N states of a channel, R rank of the time steps, C taps
of the convolution; W head width of RWKV, and the ranks of its low-rank products.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mamba:
    """Mamba, arXiv:2312.00752. `normed`: the time steps, B and C are RMS-normalised without
    weights, with the epsilon of the other norms (Falcon-Mamba, arXiv:2410.05355)."""

    I: int
    N: int
    R: int
    taps: int
    normed: bool

    @property
    def letters(self):
        """The sizes that rows of `zerfoo_numba.tensors` name."""
        sizes = {"I": self.I, "2I": 2 * self.I, "N": self.N, "R": self.R, "TAPS": self.taps}
        return sizes | {"R+2N": self.R + 2 * self.N}


@dataclass(frozen=True)
class Rwkv6:
    """RWKV 6, Finch, arXiv:2404.05892. `mix` and `decay` are ranks; after every `halve_every`
    layers (0: never) the residual stream is halved, as the weights in the file expect."""

    W: int
    H: int
    mix: int
    decay: int
    halve_every: int

    @property
    def letters(self):
        heads = {"W": self.W, "H": self.H}
        return heads | {"MIX": self.mix, "5MIX": 5 * self.mix, "DECAY": self.decay, **_COUNTS}


@dataclass(frozen=True)
class Rwkv7:
    """RWKV 7, Goose, arXiv:2503.14456: ranks of the decay, the in-context learning rate, the
    residual of the values, and the gate (0: there is none)."""

    W: int
    H: int
    decay: int
    rate: int
    value: int
    gate: int
    halve_every = 0

    @property
    def letters(self):
        ranks = {"DECAY": self.decay, "RATE": self.rate, "VALUE": self.value, "GATE": self.gate}
        return {"MIXES": 6 if self.gate else 5, **ranks, **_COUNTS}


Recurrent = Mamba | Rwkv6 | Rwkv7
_COUNTS = {"1": 1, "5": 5}


def recurrent_config(keys):
    """The Mamba, Rwkv6 or Rwkv7 of a file's `Keys`, or None where the mixer is attention."""
    return {"attention": lambda keys: None, "mamba": _mamba, "rwkv6": _rwkv6, "rwkv7": _rwkv7}[
        keys.spec.mixer
    ](keys)


def recurrent_dimensions(keys):
    """{letter: number} of a recurrent model, 0 for what it has not: attention, and in Mamba a
    feed-forward."""
    F = keys.integer("feed_forward_length", least=0 if keys.spec.mixer == "mamba" else 1)
    return {"D": keys.integer("embedding_length"), "F": F, "H": 0, "KH": 0, "HD": 0, "VD": 0}


def _mamba(keys):
    normed = keys.value("ssm.dt_b_c_rms")
    if not isinstance(normed, bool):
        raise keys.error("ssm.dt_b_c_rms", f"must be true or false, not {normed!r}")
    sizes = ("inner_size", "state_size", "time_step_rank", "conv_kernel")
    return Mamba(*(keys.integer(f"ssm.{name}") for name in sizes), normed)


def _heads(keys):
    """(W, H): head width and heads."""
    D, W = keys.integer("embedding_length"), keys.integer("wkv.head_size")
    if D % W:
        raise keys.error("wkv.head_size", f"is {W}, which does not divide the width {D}")
    return W, D // W


def _rwkv6(keys):
    ranks = [keys.integer(key) for key in ("time_mix_extra_dim", "time_decay_extra_dim")]
    return Rwkv6(*_heads(keys), *ranks, keys.integer("rescale_every_n_layers", least=0))


def _rwkv7(keys):
    names = ("decay", "iclr", "value_residual_mix")
    ranks = [keys.integer(f"attention.{name}_lora_rank") for name in names]
    return Rwkv7(*_heads(keys), *ranks, keys.integer("attention.gate_lora_rank", least=0))
