"""What of the known features a GGUF file has, how it reads text, and what is not run here."""

from collections import Counter

from zerfoo_numba.errors import UnsupportedError
from zerfoo_numba.text.pretokenizers import pretokenizer

# Tensor types that GGUF has and no kernel reads; F64 becomes F32 at load.
NOT_READ = ("Q1_0", "Q8_1", "Q8_K", "I8", "I16", "I32", "I64")
# The kinds of vocabulary that `zerfoo_numba.tokenizer` reads. Named here because that module
# imports the tokenizers' libraries.
VOCABULARIES = {
    "llama": "SentencePiece BPE",
    "gpt2": "byte-pair encoding",
    "gemma4": "byte-pair encoding, spelled out",
    "rwkv": "longest match",
}
# A tensor of a block, or of the model, that announces a feature.
ANNOUNCED = (
    ("attn_qkv.weight", "Q, K and V in one matrix"),
    ("attn_q_norm.weight", "norm of each query and key head"),
    ("attn_q.bias", "bias of Q, K and V"),
    ("attn_qkv.bias", "bias of Q, K and V"),
    ("attn_output.bias", "bias of the attention's output"),
    ("post_attention_norm.weight", "norms after attention and feed-forward"),
    ("ffn_gate_shexp.weight", "shared expert"),
    ("ffn_up.bias", "bias of the feed-forward"),
    ("rope_freqs.weight", "frequency factors"),
    ("rope_factors_long.weight", "LongRoPE: factors for long sequences"),
    ("position_embd.weight", "learned positions"),
    ("token_embd_norm.weight", "norm of the embedding"),
)


def features(gguf, config) -> list[str]:
    """One line each, for people."""
    names = set(gguf.tensors)
    names |= {name.split(".", 2)[2] for name in names if name.startswith("blk.")}
    found = [_mixer(config)]
    found += dict.fromkeys(what for name, what in ANNOUNCED if name in names)
    if "output.weight" not in names:
        found.append("the embedding is the head too")
    found += _ropes(config)
    windows = Counter(layer.window for layer in config.layers if layer.window)
    for window, count in windows.items():
        found.append(f"sliding window of {window:,} tokens in {count} of {config.L} layers")
    for value, what in (
        (config.attn_softcap, "attention scores capped at"),
        (config.final_softcap, "logits capped at"),
    ):
        if value is not None:
            found.append(f"{what} {value:g}")
    return found


def _mixer(config) -> str:
    spec, experts = config.spec, config.experts
    if config.recurrent:
        return f"{spec.mixer}: a state in place of attention"
    parts = []
    if config.H == config.KH:
        parts.append(f"attention with {config.H} heads")
    else:
        parts.append(f"attention with {config.H} query and {config.KH} key/value heads")
    parts.append(f"{spec.norm} norm, {spec.residual} residual, {spec.ffn}")
    if experts:
        parts.append(f"{experts.U} of {experts.E} experts a token")
    return "; ".join(parts)


def _ropes(config) -> list[str]:
    lines = []
    for rope, count in Counter(layer.rope for layer in config.layers).items():
        if config.spec.rope is None:
            continue
        line = f"RoPE of {rope.dims} dimensions ({rope.kind}), base {rope.base:,.0f}"
        line += f", factor {rope.factor:g}" if rope.factor != 1 else ""
        line += ", YaRN" if rope.yarn else ""
        line += ", M-RoPE" if rope.sections else ""
        lines.append(f"{line}, in {count} of {config.L} layers")
    return lines


def unsupported(gguf) -> list[str]:
    """Why a file whose configuration is understood may still not run; empty if it does."""
    found = []
    types = Counter(t.type for t in gguf.tensors.values() if t.type in NOT_READ)
    found += [f"{count} tensors of type {name}, which is not read" for name, count in types.items()]
    kind = gguf.metadata.get("tokenizer.ggml.model")
    if kind is None:
        found.append("there is no vocabulary (tokenizer.ggml.model)")
    elif not isinstance(kind, str) or kind not in VOCABULARIES:
        found.append(f"the vocabulary is of the kind {kind!r}; known: {', '.join(VOCABULARIES)}")
    elif kind == "gpt2":
        try:
            pretokenizer(gguf.metadata.get("tokenizer.ggml.pre"))
        except UnsupportedError as error:
            found.append(str(error))
    return found


def text(metadata: dict) -> dict:
    """{what: value} of the vocabulary and the chat templates."""
    key = "tokenizer.ggml."
    kind = metadata.get(f"{key}model")
    described = VOCABULARIES.get(kind, "unknown") if isinstance(kind, str) else "unknown"
    found = {"vocabulary": "none" if kind is None else f"{kind} ({described})"}
    if f"{key}pre" in metadata:
        found["pre-tokenizer"] = metadata[f"{key}pre"]
    pieces = metadata.get(f"{key}tokens")
    pieces = pieces if isinstance(pieces, list) else []
    found["tokens"] = len(pieces)
    for role in ("bos", "eos", "eot", "unknown", "padding"):
        number = metadata.get(f"{key}{role}_token_id")
        if isinstance(number, int) and 0 <= number < len(pieces):
            found[f"{role.upper()} token"] = f"{number} {pieces[number]!r}"
    for name, what in (("add_bos_token", "BOS is added"), ("add_eos_token", "EOS is added")):
        if isinstance(metadata.get(f"{key}{name}"), bool):
            found[what] = "yes" if metadata[f"{key}{name}"] else "no"
    templates = [k for k in metadata if k.startswith("tokenizer.chat_template")]
    named = [k.removeprefix("tokenizer.chat_template").lstrip(".") or "default" for k in templates]
    found["chat templates"] = ", ".join(n for n in named if n != "s") or "none"
    return found
