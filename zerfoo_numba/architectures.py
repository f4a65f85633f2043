"""What a GGUF file does not say about its arithmetic: one row per architecture."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ArchSpec:
    """What a GGUF file of this architecture does not say about its arithmetic.

    `norm`: "rms" or "layer". `rope`: "half" rotates the pairs (i, i + R/2), "interleaved" the
    pairs (2i, 2i + 1). `ffn`: "swiglu" and "geglu" (tanh) are gated, "gelu" (erf) is not.
    `residual`: "sequential", or "parallel" where attention and feed-forward read the same input.
    `scaled_local_rope`: whether `rope.scaling.*` holds for layers with a sliding window too.
    `width_scaled_layers`: a model with this many layers scales attention by (D / H)^-1/2 instead
    of HD^-1/2. `requires`: keys, and tensors of a block or of the model, without which a file of
    this architecture is incomplete, though others do without them.
    """

    arch: str
    mixer: str = "attention"
    norm: str = "rms"
    rope: str = "half"
    ffn: str = "swiglu"
    residual: str = "sequential"
    embed_scale: bool = False
    scaled_local_rope: bool = True
    width_scaled_layers: int | None = None
    requires: tuple[str, ...] = ()


_POST_NORMS = ("post_attention_norm.weight", "post_ffw_norm.weight")
_QK_NORMS = ("attn_q_norm.weight", "attn_k_norm.weight")
_QKV_BIASES = ("attn_q.bias", "attn_k.bias", "attn_v.bias", "attn_qkv.bias")

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
        # Llama, arXiv:2302.13971, and Mistral 7B, arXiv:2310.06825; the converter permutes the
        # rows of q and k for interleaved pairs.
        ArchSpec("llama", rope="interleaved"),
        # Qwen2, arXiv:2407.10671, also Qwen 2.5 and the DeepSeek-R1 distillates of it
        ArchSpec("qwen2", requires=_QKV_BIASES),
        # Qwen3, arXiv:2505.09388
        ArchSpec("qwen3", requires=_QK_NORMS),
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
    )
}
