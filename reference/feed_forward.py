"""The feed-forward of a block: dense, or a mixture of experts.

Letters: E experts, U of them used by a token, FE feed-forward width of an expert; else as in
`reference.ops`.
"""

import numpy as np

from reference import ops


class FeedForward:
    """`linear(x, name)` is the model's product with the matrix `name` and its bias."""

    def __init__(self, config, weights, linear):
        self.config, self.weights, self.linear = config, weights, linear
        self.activation = getattr(ops, config.spec.ffn)

    def __call__(self, blk, x, tap):
        """x (T, D), normed -> (T, D)."""
        if blk + "ffn_gate_inp.weight" in self.weights:
            return tap(blk + "ffn_out", self.experts(blk, x, tap))
        inputs = [self.linear(x, blk + "ffn_up")]
        if blk + "ffn_gate.weight" in self.weights:
            inputs.insert(0, self.linear(x, blk + "ffn_gate"))
        elif inputs[0].shape[1] == 2 * self.config.F:  # rows of gate, then of up, in one matrix
            inputs = np.split(inputs[0], 2, axis=1)
        names = ("ffn_gate", "ffn_up")[-len(inputs) :]
        inputs = [tap(blk + name, y) for name, y in zip(names, inputs, strict=True)]
        act = tap(blk + "ffn_act", self.activation(*inputs))
        return tap(blk + "ffn_out", self.linear(act, blk + "ffn_down"))

    def experts(self, blk, x, tap):
        """x (T, D) -> (T, D): what the experts of each token make of it, weighted and added up."""
        c = self.config.experts
        logits = tap(blk + "ffn_gate_inp", self.linear(x, blk + "ffn_gate_inp"))
        weights = tap(blk + "ffn_weights", ops.route(logits, c.U, c.normed, c.scale))
        y = np.zeros_like(x)
        for e in range(c.E):
            tokens = np.flatnonzero(weights[:, e])
            if tokens.size:
                y[tokens] += weights[tokens, e : e + 1] * self.expert(blk, e, x[tokens])
        if blk + "ffn_up_shexp.weight" in self.weights:
            gate, up = (self.linear(x, f"{blk}ffn_{name}_shexp") for name in ("gate", "up"))
            shared = self.linear(self.activation(gate, up), blk + "ffn_down_shexp")
            shared = tap(blk + "ffn_shared", shared)
            if blk + "ffn_gate_inp_shexp.weight" in self.weights:
                gate = self.weights.array(blk + "ffn_gate_inp_shexp.weight").reshape(-1)
                shared = ops.sigmoid(x @ gate)[:, None] * shared
            y = y + shared
        return y

    def expert(self, blk, e, x):
        """Expert e alone: x (tokens, D) -> (tokens, D)."""
        gate, up, down = (
            self.weights.expert(f"{blk}ffn_{name}_exps.weight", e)
            for name in ("gate", "up", "down")
        )
        return self.activation(x @ gate.T, x @ up.T) @ down.T
