"""How sure a median is: the percentile bootstrap of Efron and Tibshirani, 1993, chapter 13."""

import statistics

import numpy as np

RESAMPLES = 2000


def median_interval(values, share=0.95, seed=0):
    """(low, high): the middle `share` of the medians of RESAMPLES samples drawn from `values`.

    Of n values none lies outside their own range, so few runs give a narrow interval too easily:
    n stands beside it wherever it is shown. The draws are seeded: the same values, the same bounds.
    """
    values = np.asarray(values, np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(values), (RESAMPLES, len(values)))
    medians = np.median(values[drawn], axis=1)
    edge = 100 * (1 - share) / 2
    low, high = np.percentile(medians, [edge, 100 - edge])
    return float(low), float(high)


def summary(values):
    """{"median", "low", "high", "samples"} of a list of numbers."""
    low, high = median_interval(values)
    return {"median": statistics.median(values), "low": low, "high": high, "samples": list(values)}
