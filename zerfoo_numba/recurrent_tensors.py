"""The tensors of the blocks of recurrent models; rows as in `zerfoo_numba.tensors`.

Letters as in `zerfoo_numba.recurrent_config`, and 1, 5: those numbers. Shapes are as llama.cpp's
converter writes them (conversion/mamba.py and conversion/rwkv.py at commit 0c1e57098).
"""

MAMBA = (
    ("attn_norm.weight", "D", True, None),
    ("ssm_in.weight", "D 2I", True, None),
    ("ssm_in.bias", "2I", False, None),
    ("ssm_conv1d.weight", "TAPS I", True, None),
    ("ssm_conv1d.bias", "I", False, None),
    ("ssm_x.weight", "I R+2N", True, None),
    ("ssm_dt.weight", "R I", True, None),
    ("ssm_dt.bias", "I", True, None),
    ("ssm_a", "N I", True, None),
    ("ssm_d", "I", True, None),
    ("ssm_out.weight", "I D", True, None),
    ("ssm_out.bias", "D", False, None),
)
_RWKV = (
    ("attn_norm.weight", "D", True, None),
    ("attn_norm.bias", "D", True, None),
    ("attn_norm_2.weight", "D", True, None),
    ("attn_norm_2.bias", "D", True, None),
    ("time_mix_receptance.weight", "D D", True, None),
    ("time_mix_key.weight", "D D", True, None),
    ("time_mix_value.weight", "D D", True, None),
    ("time_mix_output.weight", "D D", True, None),
    ("time_mix_ln.weight", "D", True, None),
    ("time_mix_ln.bias", "D", True, None),
    ("channel_mix_lerp_k.weight", "D", True, None),
    ("channel_mix_key.weight", "D F", True, None),
    ("channel_mix_value.weight", "F D", True, None),
)
RWKV6 = (
    *_RWKV,
    ("time_mix_lerp_x.weight", "D", True, None),
    ("time_mix_lerp_fused.weight", "D 1 1 5", True, "one tensor of lerps"),
    *((f"time_mix_lerp_{n}.weight", "D", True, "a lerp for each") for n in "wkvrg"),
    ("time_mix_w1.weight", "D 5MIX", True, None),
    ("time_mix_w2.weight", "MIX D 5", True, None),
    ("time_mix_first.weight", "W H", True, None),
    ("time_mix_decay.weight", "D", True, None),
    ("time_mix_decay_w1.weight", "D DECAY", True, None),
    ("time_mix_decay_w2.weight", "DECAY D", True, None),
    ("time_mix_gate.weight", "D D", True, None),
    ("channel_mix_lerp_r.weight", "D", True, None),
    ("channel_mix_receptance.weight", "D D", True, None),
)
RWKV7 = (
    *_RWKV,
    ("time_mix_lerp_fused.weight", "D 1 1 MIXES", True, None),
    ("time_mix_w0.weight", "D", True, None),
    ("time_mix_w1.weight", "D DECAY", True, None),
    ("time_mix_w2.weight", "DECAY D", True, None),
    ("time_mix_a0.weight", "D", True, None),
    ("time_mix_a1.weight", "D RATE", True, None),
    ("time_mix_a2.weight", "RATE D", True, None),
    ("time_mix_v0.weight", "D", True, "a residual of values"),
    ("time_mix_v1.weight", "D VALUE", True, "a residual of values"),
    ("time_mix_v2.weight", "VALUE D", True, "a residual of values"),
    # The first block has no use for them; converters put copies of a0, a1 and a2 there.
    ("time_mix_v0.weight", "D", False, "values of its own"),
    ("time_mix_v1.weight", "D RATE", False, "values of its own"),
    ("time_mix_v2.weight", "RATE D", False, "values of its own"),
    ("time_mix_g1.weight", "D GATE", True, "a gate"),
    ("time_mix_g2.weight", "GATE D", True, "a gate"),
    ("time_mix_k_k.weight", "D", True, None),
    ("time_mix_k_a.weight", "D", True, None),
    ("time_mix_r_k.weight", "D", True, None),
)
BLOCKS = {"mamba": MAMBA, "rwkv6": RWKV6, "rwkv7": RWKV7}

# Words in the names of tensors that have rows but are no matrix of a product.
ARRAYS = ("ssm_a", "ssm_conv1d.weight", "time_mix_first.weight", "time_mix_lerp")


def form(held, blk, letters):
    """Which rows speak of block `blk` ("blk.3.") of a file with the tensors `held`."""
    apart = blk + "time_mix_lerp_w.weight" in held
    found = {"a lerp for each" if apart else "one tensor of lerps"}
    found.add("values of its own" if blk == "blk.0." else "a residual of values")
    return found | ({"a gate"} if letters.get("GATE") else set())
