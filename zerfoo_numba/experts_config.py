"""The numbers of a mixture of experts in a file's metadata.

Dimension letters: E experts of a layer, U of them used by a token, FE feed-forward width of an
expert, FS that of the shared expert.
"""

import reprlib
from dataclasses import dataclass

MOST_EXPERTS, MOST_USED = 1024, 32  # what the kernels that route and place have room for


@dataclass(frozen=True)
class Experts:
    """`normed`: the weights of a token's experts add up to `scale`; otherwise those of all do."""

    E: int
    U: int
    F: int
    shared_F: int
    normed: bool
    scale: float

    @property
    def letters(self):
        """The sizes that rows of `zerfoo_numba.tensors` name."""
        return {"E": self.E, "FE": self.F, "FS": self.shared_F}


def experts_config(keys, F):
    """The Experts of a file's `Keys`, or None; F is the feed-forward width of a dense layer."""
    E, routed = keys.integer("expert_count", least=0), _routers(keys.gguf)
    if E == 0:
        if routed:
            raise keys.error("expert_count", f"is 0 or missing, but the file has {routed[0]}")
        if "expert_count" in keys.spec.requires:
            raise keys.error("expert_count", "is 0; this architecture has experts")
        return None
    if not routed:
        raise keys.error("expert_count", f"is {E}, but no tensor ffn_gate_inp.weight chooses one")
    U = keys.integer("expert_used_count")
    if U > E:
        raise keys.error("expert_used_count", f"is {U}, more than the {E} experts there are")
    for key, value, most in (("count", E, MOST_EXPERTS), ("used_count", U, MOST_USED)):
        if value > most:
            raise keys.unsupported(f"expert_{key}", f"is {value}; at most {most} are supported")
    keys.known.update({"F": F, "F / used": F // U})
    return Experts(
        E=E,
        U=U,
        F=keys.integer("expert_feed_forward_length"),
        shared_F=keys.integer("expert_shared_feed_forward_length"),
        normed=_normed(keys),
        scale=keys.optional("expert_weights_scale") or 1.0,
    )


def _routers(gguf):
    return [name for name in gguf.tensors if name.endswith("ffn_gate_inp.weight")]


# llama.cpp, llama_expert_gating_func_type
_UNSAID, _SOFTMAX, _SOFTMAX_OF_CHOSEN = 0, 1, 3


def _normed(keys):
    normed = keys.spec.normed_experts
    if keys.has("expert_weights_norm"):
        normed = keys.value("expert_weights_norm")
        if not isinstance(normed, bool):
            what = f"must be true or false, not {reprlib.repr(normed)}"
            raise keys.error("expert_weights_norm", what)
    said = keys.has("expert_gating_func")
    function = keys.integer("expert_gating_func", least=0) if said else _UNSAID
    if function not in (_UNSAID, _SOFTMAX, _SOFTMAX_OF_CHOSEN):
        what = f"is {function}; 1 and 3, forms of softmax, are supported"
        raise keys.unsupported("expert_gating_func", what)
    return normed or function == _SOFTMAX_OF_CHOSEN
