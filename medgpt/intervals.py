"""The interval of a share that was counted."""

import math


def wilson(hits: int, total: int) -> tuple[float, float, float]:
    """(share, lower, upper): 95 % score interval of a share (Wilson 1927); (nan, 0, 1) of nothing."""
    if not total:
        return math.nan, 0.0, 1.0
    z = 1.959963984540054
    share = hits / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return share, max(0.0, middle - half), min(1.0, middle + half)
