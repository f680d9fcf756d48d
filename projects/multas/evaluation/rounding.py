"""Rounding to the numbers that a VOC result file would contain."""

import numpy as np


def round_as_printed(values: np.ndarray, decimals: int) -> np.ndarray:
    """Round as printing with ``decimals`` digits and reading back does.

    Scaling and rounding gives the same number if scaling is exact, as for every value that fits a
    float32. Of the other values the few close to a half are really printed.

    Args:
        values: float64, any shape; NaN and infinities pass unchanged.
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
        # From 2**52 on the scaled value is an integer already, and scaling would lose digits.
        doubtful |= np.isfinite(values) & (np.abs(scaled) >= 2.0**52)
        doubtful &= values != values.astype(np.float32)
    result[doubtful] = [float(f"{value:.{decimals}f}") for value in values[doubtful]]
    return result
