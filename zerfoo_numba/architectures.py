"""What a GGUF file does not say about its arithmetic: one row per architecture."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ArchSpec:
    """What a GGUF file of this architecture does not say about its arithmetic.

    `mixer`: "attention", "mamba", "rwkv6" or "rwkv7". `norm`: "rms" or "layer". `rope`: "half"
    rotates the pairs (i, i + R/2), "interleaved" the pairs (2i, 2i + 1), None rotates nothing: the
    positions are learned. `ffn`: "swiglu" and "geglu" (tanh) are gated, "gelu" (erf) and
    "gelu_tanh" are not. `residual`: "sequential", or "parallel" where attention and feed-forward
    read the same input. `pre_norms`: whether a branch reads a norm of the residual stream, or the
    stream itself. `normed_experts`: whether the weights of a token's experts are made to add up to
    one. `logits_divided`: whether `logit_scale` divides.
    `scaled_local_rope`: whether `rope.scaling.*` holds for layers with a sliding window too.
    `width_scaled_layers`: a model with this many layers scales attention by (D / H)^-1/2 instead
    of HD^-1/2. `requires`: keys, and tensors of a block or of the model, without which a file of
    this architecture is incomplete, though others do without them.
    """

    arch: str
    mixer: str = "attention"
    norm: str = "rms"
    rope: str | None = "half"
    ffn: str = "swiglu"
    residual: str = "sequential"
    pre_norms: bool = True
    normed_experts: bool = True
    logits_divided: bool = False
    embed_scale: bool = False
    scaled_local_rope: bool = True
    width_scaled_layers: int | None = None
    requires: tuple[str, ...] = ()


_POST_NORMS = ("post_attention_norm.weight", "post_ffw_norm.weight")
_QK_NORMS = ("attn_q_norm.weight", "attn_k_norm.weight")
_RWKV_NORMS = ("token_embd_norm.weight", "token_embd_norm.bias", "output_norm.bias")
_QKV_BIASES = ("attn_q.bias", "attn_k.bias", "attn_v.bias", "attn_qkv.bias")
_ALL_BIASES = (
    *("attn_norm.bias", "ffn_norm.bias", "output_norm.bias", "attn_output.bias"),
    *("ffn_up.bias", "ffn_down.bias", *_QKV_BIASES),
)
_SHARED_EXPERT = (
    *("ffn_gate_shexp.weight", "ffn_up_shexp.weight", "ffn_down_shexp.weight"),
    "ffn_gate_inp_shexp.weight",
)

ARCHS = {
    spec.arch: spec
    for spec in (
        # Gemma, arXiv:2403.08295
        ArchSpec("gemma", ffn="geglu", embed_scale=True),
        # Gemma 2, arXiv:2408.00118; 46 layers are the 27B model
        ArchSpec(
            "gemma2",
            ffn="geglu",
            embed_scale=True,
            width_scaled_layers=46,
            requires=_POST_NORMS,
        ),
        # Gemma 3 technical report, arXiv:2503.19786; 62 layers are the 27B model
        ArchSpec(
            "gemma3",
            ffn="geglu",
            embed_scale=True,
            scaled_local_rope=False,
            width_scaled_layers=62,
            requires=("attention.sliding_window", *_POST_NORMS, *_QK_NORMS),
        ),
        # Llama, arXiv:2302.13971, Mistral 7B, arXiv:2310.06825, and Mixtral, arXiv:2401.04088; the
        # converter permutes the rows of q and k for interleaved pairs.
        ArchSpec("llama", rope="interleaved"),
        # Qwen2, arXiv:2407.10671, also Qwen 2.5 and the DeepSeek-R1 distillates of it
        ArchSpec("qwen2", requires=_QKV_BIASES),
        # The text of Qwen2-VL, arXiv:2409.12191, and Qwen2.5-VL, arXiv:2502.13923
        ArchSpec("qwen2vl", requires=("rope.dimension_sections", *_QKV_BIASES)),
        # Qwen3, arXiv:2505.09388
        ArchSpec("qwen3", requires=_QK_NORMS),
        # Qwen1.5-MoE and Qwen2-57B-A14B, arXiv:2407.10671; some have no bias
        ArchSpec("qwen2moe", normed_experts=False, requires=("expert_count", *_SHARED_EXPERT)),
        # Qwen3-30B-A3B and its like, arXiv:2505.09388
        ArchSpec("qwen3moe", requires=("expert_count", *_QK_NORMS)),
        # Phi-3, arXiv:2404.14219, also Phi-3.5 and Phi-4
        ArchSpec("phi3"),
        # Command R; transformers, modeling_cohere
        ArchSpec(
            "command-r",
            norm="layer",
            rope="interleaved",
            residual="parallel",
            requires=("logit_scale",),
        ),
        # Falcon, arXiv:2311.16867; one norm (7B) or attn_norm_2 beside it (40B)
        ArchSpec(
            "falcon",
            norm="layer",
            ffn="gelu",
            residual="parallel",
            requires=("attn_norm.bias", "output_norm.bias"),
        ),
        # OLMo 2, arXiv:2501.00656; the norms of q and k are over all heads
        ArchSpec("olmo2", pre_norms=False, requires=(*_POST_NORMS, *_QK_NORMS)),
        # Granite 3; transformers, modeling_granite
        ArchSpec("granite", rope="interleaved", logits_divided=True, requires=("logit_scale",)),
        # StarCoder 2, arXiv:2402.19173
        ArchSpec("starcoder2", norm="layer", ffn="gelu_tanh", requires=_ALL_BIASES),
        # GPT-2, Radford et al., 2019
        ArchSpec("gpt2", norm="layer", rope=None, ffn="gelu_tanh", requires=_ALL_BIASES),
        # Mamba, arXiv:2312.00752, and Falcon-Mamba, arXiv:2410.05355
        ArchSpec("mamba", mixer="mamba"),
        # RWKV 6 Finch, arXiv:2404.05892, and RWKV 7 Goose, arXiv:2503.14456
        ArchSpec("rwkv6", mixer="rwkv6", norm="layer", requires=_RWKV_NORMS),
        ArchSpec("rwkv7", mixer="rwkv7", norm="layer", requires=_RWKV_NORMS),
    )
}
