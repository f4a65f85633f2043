"""The operations of recurrent blocks, bound to a device; see `zerfoo_numba.ops`.

What a state is at the start and what it is afterwards are in one buffer.
"""

from zerfoo_numba.kernels import (
    conv,
    group_norm,
    low_rank,
    selective_scan,
    split,
    token_shift,
    wkv6,
    wkv7,
    wkv7_inputs,
)


class RecurrentOps:
    """For `Ops`, which brings `device` and `_record`."""

    def conv(self, out, x, weight, bias, state):
        """out = silu of the causal convolution of the first columns of x; `state` goes along."""
        T, I = out.shape
        conv.conv(self.device, out, x, weight, bias, state)
        self._record("conv", conv.cost, T=T, I=I, K=weight.shape[1])

    def split(self, out, x, R, N, eps=None):
        """The R, N and N columns of x one after another, normalised if there is an eps."""
        split.split(self.device, out, x, R, N, eps)
        self._record("split", split.cost, T=x.shape[0], R=R, N=N)

    def selective_scan(self, out, x, dt, a, b, c, d, gate, state):
        T, I = x.shape
        selective_scan.selective_scan(self.device, out, x, dt, a, b, c, d, gate, state)
        self._record("selective_scan", selective_scan.cost, T=T, I=I, N=b.shape[1])

    def token_shift(self, out, x, before, mix, more=None, keep=False):
        """out[m] = x and a share of the token before; unless `keep`, `before` becomes x's last."""
        T, D = x.shape
        token_shift.token_shift(self.device, out, x, before, mix, more, keep)
        shape = {"T": T, "D": D, "M": out.shape[0], "varied": more is not None}
        self._record("token_shift", token_shift.cost, **shape)

    def low_rank(self, out, weight, x):
        M, T, D = out.shape
        low_rank.low_rank(self.device, out, weight, x)
        self._record("low_rank", low_rank.cost, T=T, M=M, D=D, R=x.size // (T * M))

    def wkv6(self, out, r, k, v, w, first, state):
        T, H, W = r.shape
        wkv6.wkv6(self.device, out, r, k, v, w, first, state)
        self._record("wkv6", wkv6.cost, T=T, H=H, W=W)

    def wkv7_inputs(self, w, k, v, a, remove, renew, removal, taken, mix=None, first_v=None):
        """w becomes the decay, k and v what is added; `removal` and `taken` are made."""
        T, H, W = k.shape
        others = (remove, renew, removal, taken, mix, first_v)
        wkv7_inputs.wkv7_inputs(self.device, w, k, v, a, *others)
        self._record("wkv7_inputs", wkv7_inputs.cost, T=T, H=H, W=W, mixed=mix is not None)

    def wkv7(self, out, r, k, v, decay, removal, taken, state):
        T, H, W = r.shape
        wkv7.wkv7(self.device, out, r, k, v, decay, removal, taken, state)
        self._record("wkv7", wkv7.cost, T=T, H=H, W=W)

    def group_norm(self, out, x, weight, bias, eps, gate=None, gating=None, bonus=None):
        T, H, W = x.shape
        group_norm.group_norm(self.device, out, x, weight, bias, eps, gate, gating, bonus)
        shape = {"T": T, "H": H, "W": W, "gated": gate is not None, "bonus": bonus is not None}
        self._record("group_norm", group_norm.cost, **shape)
