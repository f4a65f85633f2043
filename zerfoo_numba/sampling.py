"""How the next token is chosen from the logits: greedy, or drawn at random.

The steps and their order are llama.cpp's: repetition penalty, top-k, top-p, min-p, temperature,
then one draw from the softmax of what is left (top-p: Holtzman et al., arXiv:1904.09751; min-p:
Nguyen et al., arXiv:2407.01082; penalty: Keskar et al., arXiv:1909.05858). The device does it
(kernels/sample.py); here stand its parameters, and in float64 the distribution that it draws from.
"""

import math
import secrets
from collections.abc import Sequence

import numpy as np

from zerfoo_numba.errors import InputError


class Sampler:
    """What to draw by; the same seed and the same logits give the same ids.

    temperature: 0 or less is greedy. top_k: 0 or less keeps all. top_p and min_p: 1.0 and 0.0 keep
    all. repeat_penalty: above 1 makes the last `repeat_last_n` tokens less likely (-1: all of
    them). seed: None or negative for a random one. Errors: InputError naming the parameter.
    """

    def __init__(
        self,
        temperature: float = 0.0,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        repeat_penalty: float = 1.0,
        seed: int | None = None,
        repeat_last_n: int = 64,
    ):
        self.temperature = _number("temperature", temperature)
        self.top_k = _whole("top_k", top_k)
        self.top_p = _number("top_p", top_p, 0.0, 1.0)
        self.min_p = _number("min_p", min_p, 0.0, 1.0)
        self.repeat_penalty = _number("repeat_penalty", repeat_penalty)
        if self.repeat_penalty <= 0:
            raise InputError(f"repeat_penalty must be above 0, not {repeat_penalty!r}")
        self.repeat_last_n = _whole("repeat_last_n", repeat_last_n)
        seed = -1 if seed is None else _whole("seed", seed)
        self.seed = (secrets.randbits(64) if seed < 0 else seed) % 2**64

    @property
    def greedy(self) -> bool:
        """Whether every choice is the plain argmax of the logits, whatever came before."""
        return self.temperature <= 0 and not self._penalises

    @property
    def _penalises(self) -> bool:
        return self.repeat_penalty != 1.0 and self.repeat_last_n != 0

    def distribution(
        self, logits: np.ndarray, previous: Sequence[int] = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ids that can be drawn, the likeliest first, and their probabilities (float64)."""
        logits = np.asarray(logits, dtype=np.float64)
        if logits.ndim != 1 or not logits.size or not np.isfinite(logits.max()):
            raise InputError(
                f"sampling needs a logits vector with a finite maximum, not shape {logits.shape} "
                f"with maximum {logits.max() if logits.size else None}"
            )
        logits = self._penalise(logits, previous)
        if self.temperature <= 0:
            return np.array([logits.argmax()]), np.ones(1)
        ids = _largest(logits, self.top_k if self.top_k > 0 else logits.size)
        kept = logits[ids]
        if self.top_p < 1.0:
            # the token that reaches top_p is kept, and so is the likeliest one always
            reached = int(np.searchsorted(np.cumsum(_softmax(kept)), self.top_p, side="left"))
            kept = kept[: reached + 1]
        if self.min_p > 0.0:
            kept = kept[kept >= kept[0] + math.log(self.min_p)]
        return ids[: kept.size], _softmax(kept / self.temperature)

    def _penalise(self, logits: np.ndarray, previous: Sequence[int]) -> np.ndarray:
        if not self._penalises:
            return logits
        last = self.repeat_last_n if self.repeat_last_n > 0 else len(previous)
        recent = np.unique(np.asarray(previous[len(previous) - min(last, len(previous)) :], int))
        if recent.size and (recent[0] < 0 or recent[-1] >= logits.size):
            raise InputError(f"a previous token id is outside the {logits.size} logits")
        values = logits[recent]
        logits = logits.copy()
        logits[recent] = np.where(
            values > 0, values / self.repeat_penalty, values * self.repeat_penalty
        )
        return logits


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` largest values in falling order; of equal ones the first."""
    if count < values.size:
        threshold = np.partition(values, values.size - count)[values.size - count]
        above = np.flatnonzero(values > threshold)
        equal = np.flatnonzero(values == threshold)[: count - above.size]
        chosen = np.concatenate([above, equal])
    else:
        chosen = np.arange(values.size)
    return chosen[np.argsort(-values[chosen], kind="stable")]


def _softmax(values: np.ndarray) -> np.ndarray:
    """Softmax of values in falling order."""
    exponentials = np.exp(values - values[0])
    return exponentials / exponentials.sum()


def _number(name: str, value: float, low: float = -math.inf, high: float = math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise InputError(f"{name} must be a number, not {value!r}")
    if not math.isfinite(value) or not low <= value <= high:
        limits = f" from {low} to {high}" if high < math.inf else ""
        raise InputError(f"{name} must be a finite number{limits}, not {value!r}")
    return float(value)


def _whole(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InputError(f"{name} must be an integer, not {value!r}")
    return int(value)
