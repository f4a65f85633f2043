"""The operations a walk may call, bound to a device.

Each is one launch. A recorder sees every one with its shape and cost; a tap sees named arrays.
"""

from dataclasses import dataclass

from zerfoo_numba.expert_ops import ExpertOps
from zerfoo_numba.kernels import (
    Cost,
    activation,
    add,
    argmax,
    attention,
    attention_append,
    embed,
    join,
    layernorm,
    matmul,
    matmul_int8,
    matmul_mma,
    matvec,
    matvec_group,
    matvec_int8,
    matvec_prologue,
    pool,
    quantize,
    rmsnorm,
    rope,
    sample,
    sample_part,
    vision_attention,
)
from zerfoo_numba.recurrent_ops import RecurrentOps


@dataclass(frozen=True)
class Call:
    """One operation of a walk: its name, the shape it ran at, and the least it must move and do."""

    name: str
    shape: dict
    cost: Cost


class Ops(RecurrentOps, ExpertOps):
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

    def rmsnorm(self, out, x, weight, eps, version=2):
        T, D = x.shape
        rmsnorm.rmsnorm(self.device, out, x, weight, eps, version)
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

    def add_positions(self, x, table, position):
        """x[t] += table[position + t], the learned vectors of the positions."""
        T, D = x.shape
        add.add_positions(self.device, x, table, position)
        self._record("add_positions", add.positions_cost, T=T, D=D)

    def add(self, residual, x):
        """residual += x."""
        T, D = x.shape
        add.add(self.device, residual, x)
        self._record("add", add.cost, T=T, D=D)

    def matmul(self, out, weight, x, bias=None):
        T, K = x.shape
        wide = self.device.broadcasts and T >= matmul.FEWEST
        (matmul if wide else matvec).matmul(self.device, out, weight, x, bias)
        name = "matvec" if T == 1 else "matmul"
        self._record(name, matvec.cost, T=T, N=weight.rows, K=K, type_name=weight.type)

    def quantize(self, out, x):
        """`out` QuantizedRows: the 8-bit form of x (T, K), as `matmul_int8` takes it."""
        T, K = x.shape
        quantize.quantize(self.device, out, x)
        self._record("quantize", quantize.cost, T=T, K=K)

    def matmul_int8(self, out, weight, x, bias=None):
        way = matvec_int8
        if self.device.broadcasts and x.rows >= matmul_int8.FEWEST:
            way = matmul_int8
        elif self.device.tensor_cores and x.rows >= matmul_mma.FEWEST:
            way = matmul_mma
        way.matmul_int8(self.device, out, weight, x, bias)
        name = "matvec_int8" if x.rows == 1 else "matmul_int8"
        shape = {"T": x.rows, "N": weight.rows, "K": weight.columns}
        self._record(name, matvec_int8.cost, **shape, type_name=weight.type)

    def matvec_group(self, outs, weights, x, biases):
        """outs[i] = weights[i] x + biases[i] of one token, in one launch."""
        matvec_group.matvec_group(self.device, outs, weights, x, biases)
        shape = {"rows": tuple(w.rows for w in weights), "K": weights[0].columns}
        types = tuple(w.type for w in weights)
        self._record("matvec_group", matvec_group.group_cost, **shape, types=types)

    def matvec_gated(self, out, gate, up, x, biases, kind):
        """out = act(gate x) (up x) of one token, in one launch."""
        matvec_group.matvec_gated(self.device, out, gate, up, x, biases, kind)
        shape = {"N": gate.rows, "K": gate.columns, "types": (gate.type, up.type)}
        self._record("matvec_gated", matvec_group.gated_cost, **shape)

    def matvec_prologue(self, outs, weights, x, biases):
        """outs[i] = weights[i] y + biases[i] for what the Prologue x makes of one token."""
        matvec_prologue.matvec_prologue(self.device, outs, weights, x, biases)
        shape = {"rows": tuple(w.rows for w in weights), "K": weights[0].columns}
        shape |= {"types": tuple(w.type for w in weights), "steps": x.steps}
        self._record("matvec_prologue", matvec_prologue.cost, **shape)

    def matvec_gated_prologue(self, out, gate, up, x, biases, kind):
        """out = act(gate y) (up y) for what the Prologue x makes of one token."""
        matvec_prologue.matvec_gated_prologue(self.device, out, gate, up, x, biases, kind)
        shape = {"N": gate.rows, "K": gate.columns, "types": (gate.type, up.type)}
        self._record("matvec_gated_prologue", matvec_prologue.gated_cost, **shape, steps=x.steps)

    def qk_norm_rope_append(self, q, k, v, cache, position, table, norm, weights, eps):
        T, H, HD = q.shape
        KH, VD = v.shape[1:]
        rope.qk_norm_rope_append(self.device, q, k, v, cache, position, table, norm, weights, eps)
        shape = {"T": T, "H": H, "KH": KH, "HD": HD, "VD": VD, "cache_types": cache.types}
        self._record("qk_norm_rope_append", rope.cost, **shape)

    def attention(self, out, q, cache, position, scale, window, softcap, cached=0, spans=None):
        """`cached`: keys before the first query, as the host knows it, for the recorder alone."""
        T, H, HD = q.shape
        KH, VD = cache.k.shape[1], out.shape[2]
        attention.attention(self.device, out, q, cache, position, scale, window, softcap, spans)
        name = "attention_decode" if T == 1 else "attention_prefill"
        shape = {"T": T, "S": cached, "H": H, "KH": KH, "HD": HD, "VD": VD, "window": window}
        self._record(name, attention.cost, **shape, cache_types=cache.types)

    def attention_append(self, out, q, k, v, cache, *more, scale, window, softcap, cached=0):
        """Of one token: `qk_norm_rope_append` with the arguments `more`, and `attention`."""
        attention_append.attention_append(
            self.device, out, q, k, v, cache, *more, scale, window, softcap
        )
        (_, H, HD), (KH, VD) = q.shape, v.shape[1:]
        shape = {"T": 1, "S": cached, "H": H, "KH": KH, "HD": HD, "VD": VD, "window": window}
        self._record("attention_append", attention_append.cost, **shape, cache_types=cache.types)

    def vision_attention(self, out, q, k, v, spans, seen, scale):
        """Every patch attends to its span; `seen` counts the patches of all spans, for the
        recorder."""
        N, H, HD = q.shape
        vision_attention.vision_attention(self.device, out, q, k, v, spans, scale)
        self._record("vision_attention", vision_attention.cost, N=N, seen=seen, H=H, HD=HD)

    def pool(self, out, x):
        """Means of as many consecutive rows of x (n T, D) as make out (T, D)."""
        T, D = out.shape
        pool.pool(self.device, out, x)
        self._record("pool", pool.cost, T=T, D=D, n=x.shape[0] // T)

    def join(self, out, x, first):
        """x (T, D) becomes columns `first` on of out (T, W)."""
        join.join(self.device, out, x, first)
        self._record("join", join.cost, T=x.shape[0], D=x.shape[1])

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

    def sample_part(self, kept, counts, bests, logits, *more):
        """Few candidates of the logits, for `sample_join`."""
        sample_part.sample_part(self.device, kept, counts, bests, logits, *more)
        self._record("sample_part", sample_part.cost, V=logits.size)

    def sample_join(self, token, position, history, kept, *more):
        """The token drawn from the candidates."""
        sample.sample_join(self.device, token, position, history, kept, *more)
        self._record("sample_join", sample.cost, segments=kept.shape[0])

    def advance(self, position, count):
        argmax.advance(self.device, position, count)
        self._record("advance", lambda: Cost(8, 0))
