"""The operations a walk may call, bound to a device.

Each is one launch. A recorder sees every one with its shape and cost; a tap sees named arrays.
"""

from dataclasses import dataclass

from zerfoo_numba.kernels import (
    Cost,
    activation,
    add,
    argmax,
    attention,
    embed,
    layernorm,
    matvec,
    matvec_int8,
    quantize,
    rmsnorm,
    rope,
)


@dataclass(frozen=True)
class Call:
    """One operation of a walk: its name, the shape it ran at, and the least it must move and do."""

    name: str
    shape: dict
    cost: Cost


class Ops:
    def __init__(self, device):
        self.device = device
        self.calls: list[Call] | None = None  # a list while someone records
        self.taps: dict | None = None  # a dict while someone listens

    def tap(self, name, buffer):
        if self.taps is not None:
            self.taps[name] = self.device.read(buffer)

    def _record(self, name, cost, **shape):
        if self.calls is not None:
            self.calls.append(Call(name, shape, cost(**shape)))

    def embed(self, out, table, tokens, scale):
        T, D = out.shape
        look_up = embed.embed_packed if table.packed else embed.embed
        look_up(self.device, out, table, tokens, scale)
        self._record("embed", embed.cost, T=T, D=D, type_name=table.type)

    def rmsnorm(self, out, x, weight, eps):
        T, D = x.shape
        rmsnorm.rmsnorm(self.device, out, x, weight, eps)
        self._record("rmsnorm", rmsnorm.cost, T=T, D=D)

    def add_rmsnorm(self, out, residual, x, weight, eps):
        """residual += x; out = rmsnorm(residual)."""
        T, D = x.shape
        rmsnorm.add_rmsnorm(self.device, out, residual, x, weight, eps)
        self._record("add_rmsnorm", rmsnorm.add_cost, T=T, D=D)

    def layernorm(self, out, x, weight, bias, eps):
        T, D = x.shape
        layernorm.layernorm(self.device, out, x, weight, bias, eps)
        self._record("layernorm", layernorm.cost, T=T, D=D)

    def add_layernorm(self, out, residual, x, weight, bias, eps):
        """residual += x; out = layernorm(residual)."""
        T, D = x.shape
        layernorm.add_layernorm(self.device, out, residual, x, weight, bias, eps)
        self._record("add_layernorm", layernorm.add_cost, T=T, D=D)

    def add(self, residual, x):
        """residual += x."""
        T, D = x.shape
        add.add(self.device, residual, x)
        self._record("add", add.cost, T=T, D=D)

    def matmul(self, out, weight, x, bias=None):
        T, K = x.shape
        matvec.matmul(self.device, out, weight, x, bias)
        name = "matvec" if T == 1 else "matmul"
        self._record(name, matvec.cost, T=T, N=weight.rows, K=K, type_name=weight.type)

    def quantize(self, out, x):
        """`out` QuantizedRows: the 8-bit form of x (T, K), as `matmul_int8` takes it."""
        T, K = x.shape
        quantize.quantize(self.device, out, x)
        self._record("quantize", quantize.cost, T=T, K=K)

    def matmul_int8(self, out, weight, x, bias=None):
        matvec_int8.matmul_int8(self.device, out, weight, x, bias)
        name = "matvec_int8" if x.rows == 1 else "matmul_int8"
        shape = {"T": x.rows, "N": weight.rows, "K": weight.columns}
        self._record(name, matvec_int8.cost, **shape, type_name=weight.type)

    def qk_norm_rope_append(self, q, k, v, cache, position, table, norm, weights, eps):
        T, H, HD = q.shape
        KH, VD = v.shape[1:]
        rope.qk_norm_rope_append(self.device, q, k, v, cache, position, table, norm, weights, eps)
        shape = {"T": T, "H": H, "KH": KH, "HD": HD, "VD": VD, "cache_type": cache.type}
        self._record("qk_norm_rope_append", rope.cost, **shape)

    def attention(self, out, q, cache, position, scale, window, softcap, cached=0):
        """`cached`: keys before the first query, as the host knows it, for the recorder alone."""
        T, H, HD = q.shape
        KH, VD = cache.v.shape[1:]
        attention.attention(self.device, out, q, cache, position, scale, window, softcap)
        name = "attention_decode" if T == 1 else "attention_prefill"
        shape = {"T": T, "S": cached, "H": H, "KH": KH, "HD": HD, "VD": VD, "window": window}
        self._record(name, attention.cost, **shape, cache_type=cache.type)

    def gated(self, out, gate, up, kind):
        T, F = gate.shape
        activation.gated(self.device, out, gate, up, kind)
        self._record(kind, activation.cost, T=T, F=F)

    def plain(self, out, x, kind):
        """out = act(x), of a feed-forward without a gate."""
        T, F = x.shape
        activation.plain(self.device, out, x, kind)
        self._record(kind, activation.plain_cost, T=T, F=F)

    def scale(self, x, factor):
        """x = factor x, in place."""
        activation.scale(self.device, x, factor)
        self._record("scale", activation.scale_cost, size=x.size)

    def softcap(self, x, cap):
        """x = cap tanh(x / cap), in place."""
        activation.softcap(self.device, x, cap)
        self._record("softcap", activation.softcap_cost, size=x.size)

    def argmax(self, token, position, history, logits, step=1):
        argmax.argmax(self.device, token, position, history, logits, step)
        self._record("argmax", argmax.cost, V=logits.size)

    def advance(self, position, count):
        argmax.advance(self.device, position, count)
        self._record("advance", lambda: Cost(8, 0))
