"""Uncertainty of scores: intervals by clusters, exact paired tests, Holm's correction, GRIM. numpy only, no clock.

Random draws come from `numpy.random.RandomState`, whose stream numpy guarantees never to change, with a fixed seed: the
same scores give the same intervals and p-values on every machine and under every version.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SEED = 20_260_301
RESAMPLES = 2_000
"""Of a bootstrap: the ends of a 95 % interval rest on 50 of them each."""
FEW_CLUSTERS = 20
FEW_CLUSTERS_SAY = (
    f"fewer than {FEW_CLUSTERS} clusters: the interval is too narrow (with 5 clusters it holds the true value in some "
    "79 % of cases, not 95 %)"
)
"""Said wherever such an interval is shown; measured: bench/RESULTS.md."""
PERMUTATIONS = 10_000
EXACT_CLUSTERS = 13
"""Up to so many differing clusters every sign pattern is tried (8,192): the p-value is exact."""
_CHUNK = 4_000_000
_Z95 = 1.959963984540054  # two-sided 95 % of the normal distribution


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval, in the unit of the values."""

    mean: float
    low: float
    high: float
    items: int
    clusters: int


def cluster_interval(values: Sequence[float], clusters: Sequence[Hashable]) -> Interval | None:
    """Mean of `values` and its percentile interval when whole clusters are drawn again. None for no values.

    A cluster's items hang together (one picture, one patient), so the interval over items would be too narrow. With
    one cluster alone nothing can be said: the interval is then [-inf, inf].
    """
    import numpy as np

    if not values:
        return None
    sums, counts = _by_cluster(values, clusters)
    mean = float(sums.sum() / counts.sum())
    if len(sums) == 1:
        return Interval(mean, float("-inf"), float("inf"), len(values), 1)
    low, high = np.percentile(_resampled_means(sums, counts), [2.5, 97.5])
    return Interval(mean, float(low), float(high), len(values), len(sums))


def share_interval(correct: Sequence[bool], clusters: Sequence[Hashable]) -> Interval | None:
    """Share of correct items with its interval (`cluster_interval`). None for no items.

    Where all items are correct, or none, drawing again shows no spread; then Wilson's interval (1927) with one trial a
    cluster says how much that is worth.
    """
    found = cluster_interval([float(value) for value in correct], clusters)
    if found is None or 0 < found.mean < 1:
        return found
    width = _Z95**2 / (found.clusters + _Z95**2)
    low, high = (1 - width, 1.0) if found.mean else (0.0, width)
    return Interval(found.mean, low, high, found.items, found.clusters)


def paired_interval(first: Sequence[float], second: Sequence[float], clusters: Sequence[Hashable]) -> Interval | None:
    """Mean of `first - second`, item by item, with its cluster interval."""
    return cluster_interval([a - b for a, b in zip(first, second, strict=True)], clusters)


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p-value that both models are right equally often, from the items that one alone got right.

    The binomial test of the smaller count at one half (McNemar 1947 in its exact form), in whole numbers; 1 where the
    models never differ. Raises: `ValueError` for negative counts.
    """
    if only_first < 0 or only_second < 0:
        raise ValueError("counts of items cannot be negative")
    total = only_first + only_second
    term = tail = 1
    for successes in range(1, min(only_first, only_second) + 1):
        term = term * (total - successes + 1) // successes
        tail += term
    return float(min(Fraction(1), Fraction(2 * tail, 2**total)))


def t_test(values: Sequence[float]) -> float:
    """One-sided p-value of Student's t-test that the mean of `values` is not above 0; never below 1e-12.

    The distribution is the finite series for whole degrees of freedom (Abramowitz and Stegun 26.7.3 and 26.7.4), since
    nothing that `eval` installs has it; equal to scipy's in a test. 1 for fewer than two values or without a spread.
    """
    number = len(values)
    if number < 2 or len(set(values)) == 1:
        return 1.0
    mean = math.fsum(values) / number
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (number - 1))
    freedom = number - 1
    angle = math.atan2(mean * math.sqrt(number), deviation * math.sqrt(freedom))
    odd = freedom % 2
    term = total = math.cos(angle) if odd else 1.0
    for step in range(2 + odd, freedom, 2):
        term *= math.cos(angle) ** 2 * (step - 1) / step
        total += term
    within = math.sin(angle) * (total if freedom > 1 else 0.0)
    if odd:
        within = (angle + within) * 2 / math.pi
    return max((1 - within) / 2, 1e-12)


def permutation(first: Sequence[float], second: Sequence[float], clusters: Sequence[Hashable]) -> float:
    """Two-sided p-value of the mean paired difference when the models' names are swapped cluster by cluster.

    All sign patterns where at most `EXACT_CLUSTERS` clusters differ, else `PERMUTATIONS` drawn ones, the observed one
    counted among them (so the value is never 0). 1 where no cluster differs.
    """
    import numpy as np

    sums, _ = _by_cluster([a - b for a, b in zip(first, second, strict=True)], clusters)
    sums = sums[sums != 0]
    if not len(sums):
        return 1.0
    observed = abs(float(sums.sum()))
    # Sums of the same numbers in another order differ in the last bits; those are equal, not smaller.
    bound = observed - 1e-9 * float(np.abs(sums).sum())
    if len(sums) <= EXACT_CLUSTERS:
        patterns = (np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums))) & 1
        return float(np.mean(np.abs((2 * patterns - 1) @ sums) >= bound))
    state = np.random.RandomState(SEED)
    extreme = 0
    rows = max(1, _CHUNK // len(sums))
    for start in range(0, PERMUTATIONS, rows):
        signs = state.randint(0, 2, size=(min(rows, PERMUTATIONS - start), len(sums)), dtype=np.int8)
        extreme += int(np.count_nonzero(np.abs(signs @ (2 * sums) - sums.sum()) >= bound))
    return (extreme + 1) / (PERMUTATIONS + 1)


def holm(values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction of p-values, by name: as many comparisons as there are names.

    Below 0.05 after it, the chance that any one of the claims is noise is at most 5 %.
    """
    ordered = sorted(values.items(), key=lambda entry: entry[1])
    corrected: dict[str, float] = {}
    highest = 0.0
    for rank, (name, value) in enumerate(ordered):
        highest = max(highest, min(1.0, value * (len(ordered) - rank)))
        corrected[name] = highest
    return {name: corrected[name] for name in values}


def chance_of_passing(items: int, decimals: int = 2) -> float:
    """Share of percentages with so many decimals (0 to 100) that are k / items for some k: how little GRIM says.

    Counted, not estimated: the different roundings of k / items over all possible values.
    """
    scale = 10**decimals
    rounded = {(200 * scale * count + items) // (2 * items) for count in range(items + 1)}
    return len(rounded) / (100 * scale + 1)


def grim(percent: str, items: int) -> int | None:
    """The count k with `percent` = 100 k / items after rounding, or None: then no k of so many items gives it.

    `percent` is text, since its decimals count ("61.50" says more than "61.5"). Both ways of rounding a five are let
    through. After Brown and Heathers, The GRIM Test (2017). Raises: `ValueError` for no number or no items.
    """
    if items < 1:
        raise ValueError("GRIM needs at least one item")
    try:
        value = Decimal(percent)
    except ArithmeticError:
        raise ValueError(f"{percent!r} is no number") from None
    if not value.is_finite() or not 0 <= value <= 100:
        raise ValueError(f"{percent!r} is no percentage")
    unit = Decimal(1).scaleb(int(value.as_tuple().exponent))
    nearest = int(value * items / 100)
    for count in range(max(0, nearest - 1), min(items, nearest + 1) + 1):
        exact = Decimal(100 * count) / Decimal(items)
        if value in (exact.quantize(unit, ROUND_HALF_UP), exact.quantize(unit, ROUND_HALF_EVEN)):
            return count
    return None


def unpaired_z(first: float, second: float, items: int) -> float:
    """Standard score of a difference of two shares (0 to 1) of `items` each, as if measured on different items.

    All that a published table allows; a paired test needs the samples. 0 where both have no variance.
    """
    variance = (first * (1 - first) + second * (1 - second)) / items
    return (first - second) / math.sqrt(variance) if variance > 0 else 0.0


def macro_f1(pairs: Sequence[tuple[str, str | None]]) -> float | None:
    """Unweighted mean of F1 over the gold classes of (gold, named); None for no pairs."""
    classes = sorted({gold for gold, _ in pairs})
    if not classes:
        return None
    scores = []
    for name in classes:
        hits = sum(gold == named == name for gold, named in pairs)
        claimed = sum(named == name for _, named in pairs)
        present = sum(gold == name for gold, _ in pairs)
        scores.append(2 * hits / (claimed + present))
    return sum(scores) / len(scores)


def commonest(counts: Mapping[str, int]) -> dict[str, Any]:
    """The constant answer that gets most, and how many; ties go to the smaller text."""
    name, count = min(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    return {"answer": name, "correct": count}


def _by_cluster(
    values: Sequence[float], clusters: Sequence[Hashable]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum and count of each cluster, in the order in which clusters first occur."""
    import numpy as np

    index: dict[Hashable, int] = {}
    places = [index.setdefault(cluster, len(index)) for cluster in clusters]
    given = np.asarray(values, dtype=np.float64)
    if len(places) != len(given):
        raise ValueError("every value needs its cluster")
    sums = np.bincount(places, weights=given, minlength=len(index)).astype(np.float64)
    return sums, np.bincount(places, minlength=len(index)).astype(np.float64)


def _resampled_means(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    import numpy as np

    state = np.random.RandomState(SEED)
    number = len(sums)
    rows = max(1, _CHUNK // number)
    means = []
    for start in range(0, RESAMPLES, rows):
        drawn = state.randint(0, number, size=(min(rows, RESAMPLES - start), number))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    return np.concatenate(means)
