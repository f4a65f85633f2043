"""The state of sampling in device memory: parameters, seed, count of draws, room for candidates.

One captured step serves every set of parameters, since the kernels read them from here.
"""

import math

import numpy as np

from zerfoo_numba.kernels import sample
from zerfoo_numba.kernels.sample_part import NONE, SEGMENT, segments

# Finite, or an infinite logit and no floor would add up to no number.
_NO_FLOOR = -3e38
_LEAST_TEMPERATURE = 1e-6


class Draws:
    """Draws the token after the logits of a walk; buffers as kernels/sample.py names them."""

    def __init__(self, walk):
        self.walk, self.device = walk, walk.ops.device
        parts = segments(walk.logits.size)
        self.kept = self.device.empty((parts, SEGMENT, 2), np.uint32, "candidates")
        self.counts = self.device.empty(parts, np.uint32, "candidate_counts")
        self.bests = self.device.empty(parts, np.uint32, "best_logits")
        self.state = self.device.upload(np.zeros(3, np.uint32), "draws")
        self.whole = self.device.upload(np.zeros(3, np.uint32), "sampling_whole")
        self.numbers = self.device.upload(np.zeros(4, np.float32), "sampling_numbers")

    def start(self, sampler):
        """Draw by `sampler` (a sampling.Sampler) from here on, beginning with its seed."""
        whole, numbers = parameters(sampler)
        self.device.write(self.whole, whole)
        self.device.write(self.numbers, numbers)
        self.device.write(self.state, seeded(sampler.seed))

    def back(self, count):
        """Go on as after `count` draws since the start."""
        self.device.write(self.state.view((1,), 2), np.array([count], np.uint32))

    def choose(self, step):
        """The token after `logits`, into tokens[0] and the history; `step` as in kernels/argmax."""
        walk = self.walk
        candidates = (self.kept, self.counts, self.bests)
        settings = (self.whole, self.numbers)
        walk.ops.sample_part(*candidates, walk.logits, walk.history, walk.position, *settings, step)
        token = walk.tokens.view((1,))
        given = (token, walk.position, walk.history)
        walk.ops.sample_join(*given, *candidates, self.state, *settings, step)

    def step(self):
        """One token, and the draw of the next: the whole of what a graph replays."""
        self.walk.step()
        self.choose(1)


def seeded(seed):
    """uint32 (3,): the low and the high word of a seed below 2^64, and no draws yet."""
    return np.array([seed & NONE, seed >> 32, 0], np.uint32)


def parameters(sampler):
    """(whole (3,) uint32, numbers (4,) float32) as the kernels read them."""
    greedy = sampler.temperature <= 0
    k = 1 if greedy else min(max(sampler.top_k, 0), NONE)
    top_p = min(round(sampler.top_p * 2**32), NONE)
    last = NONE if sampler.repeat_last_n < 0 else min(sampler.repeat_last_n, NONE)
    rate = sample.LOG2E / (1.0 if greedy else max(sampler.temperature, _LEAST_TEMPERATURE))
    floor = math.log(sampler.min_p) if sampler.min_p > 0 else _NO_FLOOR
    penalty = sampler.repeat_penalty
    return (
        np.array([k, top_p, last], np.uint32),
        np.array([max(rate, 1e-30), floor, penalty, 1 / penalty], np.float32),
    )
