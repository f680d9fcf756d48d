"""Rounding of arrays to the values that their decimal print would have."""

import numpy as np


def round_as_printed(values: np.ndarray, decimals: int) -> np.ndarray:
    """The numbers one gets by printing with ``decimals`` digits and reading back.

    VOC result files are text; their figures follow from what was printed. Scaling and rounding
    gives the same number where scaling is exact, as for everything that fits a float32. Of the
    others the few next to a half are really printed.

    Args:
        values: float64, any shape; NaN and infinities pass through.
        decimals: digits after the point.

    Returns:
        float64 of the same shape.
    """
    scaled = values * 10.0**decimals
    rounded = np.rint(scaled)
    result = rounded / 10.0**decimals
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.abs(np.abs(scaled - rounded) - 0.5)
        doubtful = distance <= 4 * np.spacing(np.abs(scaled))
        # Beyond 2**52 the scaled value is an integer already and the detour would lose digits.
        doubtful |= np.isfinite(values) & (np.abs(scaled) >= 2.0**52)
        doubtful &= values != values.astype(np.float32)
    result[doubtful] = [float(f"{value:.{decimals}f}") for value in values[doubtful]]
    return result
