"""The feed-forward of a block: dense, or a mixture of experts whose choice stays on the device."""

import numpy as np

from zerfoo_numba import fusion
from zerfoo_numba.kernels.router import TILE, most_tiles


class ExpertRoom:
    """The buffers of a mixture of experts for up to `rows` tokens.

    A token alone has its U experts in a row. Many tokens are dealt to slots, in tiles of one expert
    each, so that an expert is read once for all of a tile.
    """

    def __init__(self, maker, config, rows):
        """`maker` as in `zerfoo_numba.arena`."""
        self.config, c = config.experts, config.experts
        slots = self.slots(config, rows)
        widths = {"x": config.D, "gate": c.F, "up": c.F, "act": c.F, "y": config.D}
        self.slotted = _made(maker, {n: (slots, w) for n, w in widths.items()})
        widths = {"logits": c.E, "weights": c.U, "shared": config.D}
        widths |= dict.fromkeys(("shared_gate", "shared_up", "shared_act"), c.shared_F)
        self.rows = _made(maker, {n: (rows, w) for n, w in widths.items()})
        counts = {"experts": rows * c.U, "places": rows * c.U, "sources": slots}
        counts["tiles"] = max(1, slots // TILE)
        self.ids = _made(maker, {n: (count,) for n, count in counts.items()}, np.uint32)

    @staticmethod
    def slots(config, T):
        """Rows that the experts of T tokens take at most; 0 without experts."""
        c = config.experts
        if c is None:
            return 0
        return max(TILE * most_tiles(T * c.U, c.E) if T > 1 else 0, c.U)

    def at(self, T, S, tiles):
        """Views for T tokens in S slots."""
        pairs = (T, self.config.U)
        shapes = {"experts": pairs, "places": pairs, "sources": (S,), "tiles": (tiles,)}
        return {
            **{n: b.view((S, b.shape[1])) for n, b in self.slotted.items()},
            **{n: b.view((T, b.shape[1])) for n, b in self.rows.items()},
            **{n: b.view(shapes[n]) for n, b in self.ids.items()},
        }


def _made(maker, shapes, dtype=np.float32):
    """The buffers of a mixture of experts that `maker` makes; the others no step uses."""
    made = {n: maker.empty(shape, dtype, f"experts.{n}") for n, shape in shapes.items()}
    return {n: b for n, b in made.items() if b is not None}


def feed_forward(walk, i, b):
    """b["result"] becomes what block i's feed-forward makes of b["normed"]."""
    blk = f"blk.{i}."
    if blk + "ffn_gate_inp.weight" in walk.weights:
        experts(walk, blk, b)
    else:
        dense(walk, blk, b)
    walk.ops.tap(blk + "ffn_out", b["result"])


def dense(walk, blk, b):
    ops, kind = walk.ops, walk.config.spec.ffn
    names = [n for n in ("gate", "up") if f"{blk}ffn_{n}.weight" in walk.weights]
    if "gate" not in names:
        walk.product(b["up"], blk + "ffn_up", fusion.entry(walk, b["normed"]))
        ops.plain(b["act"], b["up"], kind)
    elif not fusion.gate_up(walk, blk, b):
        x = walk.operand(b["normed"], *(f"{blk}ffn_{name}" for name in names))
        for name in names:
            walk.linear(b[name], f"{blk}ffn_{name}", x)
        ops.gated(b["act"], b["gate"], b["up"], kind)
    walk.product(b["result"], blk + "ffn_down", b["act"])
    for name in names:
        ops.tap(f"{blk}ffn_{name}", b[name])
    ops.tap(blk + "ffn_act", b["act"])


def experts(walk, blk, b):
    ops, c = walk.ops, walk.config.experts
    T = b["normed"].shape[0]
    placed = T > 1
    tiles = most_tiles(T * c.U, c.E)
    r = walk.expert_room.at(T, TILE * tiles if placed else c.U, tiles)
    router = blk + "ffn_gate_inp"
    walk.linear(r["logits"], router, walk.operand(b["normed"], router))
    ops.route(r["experts"], r["weights"], r["logits"], c.normed, c.scale)
    x, chosen = b["normed"], r["experts"]
    if placed:
        ops.place(r["tiles"], r["sources"], r["places"], r["experts"], c.E)
        ops.gather(r["x"], b["normed"], r["sources"], c.U)
        x, chosen = r["x"], r["tiles"]
    names = [f"{blk}ffn_{name}_exps" for name in ("gate", "up", "down")]
    x = walk.operand(x, *names[:2])
    for name, out in zip(names[:2], (r["gate"], r["up"]), strict=True):
        linear(walk, out, name, x, chosen)
    ops.gated(r["act"], r["gate"], r["up"], walk.config.spec.ffn)
    linear(walk, r["y"], names[2], walk.operand(r["act"], names[2]), chosen)
    ops.experts_sum(b["result"], r["y"], r["weights"], r["places"], placed)
    ops.tap(router, r["logits"])
    tap_weights(ops, blk + "ffn_weights", r, c.E)
    if blk + "ffn_up_shexp.weight" in walk.weights:
        shared_expert(walk, blk, b, r)


def linear(walk, out, name, operand, chosen):
    """out = weight x, the matrix of each row or tile of rows named by `chosen`."""
    weight, E = walk.weights.matrix(name + ".weight"), walk.config.experts.E
    if weight.packed:
        walk.ops.matmul_experts_int8(out, weight, operand.quantized, chosen, E)
    else:
        walk.ops.matmul_experts(out, weight, operand.x, chosen, E)


def shared_expert(walk, blk, b, r):
    """b["result"] += the expert of every token, by its gate if it has one."""
    ops = walk.ops
    names = [f"{blk}ffn_{name}_shexp" for name in ("gate", "up", "down")]
    x = walk.operand(b["normed"], *names[:2])
    for name, out in zip(names[:2], (r["shared_gate"], r["shared_up"]), strict=True):
        walk.linear(out, name, x)
    ops.gated(r["shared_act"], r["shared_gate"], r["shared_up"], walk.config.spec.ffn)
    walk.linear(r["shared"], names[2], walk.operand(r["shared_act"], names[2]))
    ops.tap(blk + "ffn_shared", r["shared"])
    gate = walk.weights.vector(blk + "ffn_gate_inp_shexp.weight")
    if gate is None:
        ops.add(b["result"], r["shared"])
    else:
        ops.add_shared(b["result"], r["shared"], b["normed"], gate)


def tap_weights(ops, name, r, E):
    """The weight of every expert (T, E): those of the chosen ones, and zero."""
    if ops.taps is None:
        return
    chosen, weights = ops.device.read(r["experts"]), ops.device.read(r["weights"])
    ops.taps[name] = np.zeros((len(chosen), E), np.float32)
    np.put_along_axis(ops.taps[name], chosen.astype(np.int64), weights, axis=1)
