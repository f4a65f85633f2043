"""GGUF files by hand, valid or not: what a damaged file needs, no writer offers."""

import struct

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FORMS = {
    U8: "<B", I8: "<b", U16: "<H", I16: "<h", U32: "<I", I32: "<i", F32: "<f", BOOL: "<B",
    U64: "<Q", I64: "<q", F64: "<d",
}  # fmt: skip


def string(text):
    raw = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(item):
    """The type id and bytes of a value: (kind, number), (ARRAY, kind, items), or a plain one."""
    if isinstance(item, bool):
        item = (BOOL, item)
    elif isinstance(item, int):
        item = (U32, item)
    elif isinstance(item, float):
        item = (F32, item)
    elif isinstance(item, (str, bytes)):
        item = (STRING, item)
    elif isinstance(item, list):
        item = (ARRAY, STRING if item and isinstance(item[0], str) else I32, item)
    kind = struct.pack("<I", item[0])
    if item[0] == ARRAY:
        _, inner, items = item
        head = struct.pack("<IQ", inner, len(items))
        return kind + head + b"".join(value((inner, i))[4:] for i in items)
    return kind + (string(item[1]) if item[0] == STRING else struct.pack(FORMS[item[0]], item[1]))


def key(name, item):
    return string(name) + value(item)


def tensor_info(name, shape, kind=0, offset=0):
    dims = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return string(name) + dims + struct.pack("<IQ", kind, offset)


def assemble(keys=(), infos=(), data=b"", version=3, magic=b"GGUF", counts=None, alignment=32):
    """A file of ready-made parts; `counts` (tensors, keys) may lie about them."""
    counts = counts or (len(infos), len(keys))
    head = magic + struct.pack("<IQQ", version, *counts) + b"".join(keys) + b"".join(infos)
    padding = -len(head) % alignment if data else 0
    return head + bytes(padding) + data


def f32_file(metadata, shapes, fill=b"\0"):
    """A valid file of F32 tensors {name: shape}, every byte of them `fill`."""
    infos, data = [], b""
    for name, shape in shapes.items():
        infos.append(tensor_info(name, shape, 0, len(data)))
        count = 4
        for n in shape:
            count *= n
        data += fill * (count + -count % 32)
    return assemble([key(k, v) for k, v in metadata.items()], infos, data)


def vocabulary(size):
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    return (tokens + [f"piece{i}" for i in range(size)])[:size]


def gemma3_metadata(L=6, D=16, H=4, KH=1, HD=8, F=24, V=20):
    return {
        "general.architecture": "gemma3",
        "general.name": "tiny",
        "gemma3.context_length": 64,
        "gemma3.block_count": L,
        "gemma3.embedding_length": D,
        "gemma3.feed_forward_length": F,
        "gemma3.attention.head_count": H,
        "gemma3.attention.head_count_kv": KH,
        "gemma3.attention.key_length": HD,
        "gemma3.attention.value_length": HD,
        "gemma3.attention.layer_norm_rms_epsilon": 1e-6,
        "gemma3.attention.sliding_window": 8,
        "gemma3.rope.freq_base": 1e6,
        "tokenizer.ggml.tokens": vocabulary(V),
    }


def llama_metadata(L=2, D=16, H=4, KH=2, F=24, V=20):
    return {
        "general.architecture": "llama",
        "llama.context_length": 64,
        "llama.block_count": L,
        "llama.embedding_length": D,
        "llama.feed_forward_length": F,
        "llama.attention.head_count": H,
        "llama.attention.head_count_kv": KH,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": D // H,
        "tokenizer.ggml.tokens": vocabulary(V),
    }


def block_shapes(i, D=16, H=4, KH=1, HD=8, F=24):
    """The tensors of a plain attention block."""
    return {
        f"blk.{i}.{name}.weight": shape
        for name, shape in {
            "attn_norm": (D,),
            "attn_q": (D, H * HD),
            "attn_k": (D, KH * HD),
            "attn_v": (D, KH * HD),
            "attn_output": (H * HD, D),
            "ffn_norm": (D,),
            "ffn_gate": (D, F),
            "ffn_up": (D, F),
            "ffn_down": (F, D),
        }.items()
    }


def gemma3_shapes(L=6, D=16, H=4, KH=1, HD=8, F=24, V=20):
    shapes = {"token_embd.weight": (D, V), "output_norm.weight": (D,)}
    for i in range(L):
        shapes |= block_shapes(i, D, H, KH, HD, F)
        shapes |= {f"blk.{i}.attn_{c}_norm.weight": (HD,) for c in "qk"}
        shapes |= {f"blk.{i}.post_{c}_norm.weight": (D,) for c in ("attention", "ffw")}
    return shapes


def llama_shapes(L=2, D=16, H=4, KH=2, F=24, V=20):
    shapes = {"token_embd.weight": (D, V), "output_norm.weight": (D,), "output.weight": (D, V)}
    for i in range(L):
        shapes |= block_shapes(i, D, H, KH, D // H, F)
    return shapes


def save(tmp_path, raw):
    path = tmp_path / "file.gguf"
    path.write_bytes(raw)
    return path
