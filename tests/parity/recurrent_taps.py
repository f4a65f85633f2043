"""The names that a recurrent model gives to what it computes, in order, and their widths."""

_RWKV = "time_mix attn_out ffn_input ffn_norm ffn_act ffn_out output"
_NAMES = {
    "mamba": "input attn_norm ssm_in ssm_conv ssm_b ssm_c ssm_dt ssm_y ssm_out output",
    "rwkv6": f"input attn_norm time_mix_r time_mix_k time_mix_v time_mix_g time_mix_w wkv {_RWKV}",
    "rwkv7": "input attn_norm time_mix_r time_mix_k time_mix_v time_mix_w time_mix_a "
    f"time_mix_v_mix wkv_k wkv_v wkv_decay wkv_removal wkv {_RWKV}",
}


def block_names(config, i):
    """Names of block i, without its "blk.i."."""
    names = _NAMES[config.spec.mixer].split()
    return [name for name in names if i > 0 or name != "time_mix_v_mix"]


def widths(config):
    """{last part of a name: width}, where it is not D."""
    c = config.recurrent
    if config.spec.mixer != "mamba":
        return {"ffn_act": (config.F,)}
    inner = dict.fromkeys(("ssm_conv", "ssm_dt", "ssm_y"), (c.I,))
    return inner | {"ssm_in": (2 * c.I,), "ssm_b": (c.N,), "ssm_c": (c.N,)}
