"""Numbers as the tables show them: enough digits to judge, never more, never cut off."""

import math

from corollary.papers import Finding, Level


def format_number(value: float, *, digits: int = 3) -> str:
    """A number with this many significant digits, in scientific notation when very small or very large.

    Example:
        >>> format_number(0.123456), format_number(-3.2e-12), format_number(41.0), format_number(float("nan"))
        ('0.123', '-3.2e-12', '41', 'nan')
    """
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    size = abs(value)
    if size < 1e-3 or size >= 1e6:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{mantissa}e{int(exponent)}"
    decimals = max(0, digits - 1 - math.floor(math.log10(size)))
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_interval(mean: float, low: float, high: float) -> str:
    """A mean with its interval, rounded alike: `0.412 [0.361, 0.463]`; without interval, the mean alone.

    The half-width decides the digits: two of its own are shown.
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        return format_number(mean)
    half = (high - low) / 2
    largest = max(abs(low), abs(high), abs(mean))
    if largest == 0:
        return "0 [0, 0]"
    if half <= largest * 1e-6:
        number = format_number(mean, digits=4)
        return f"{number} [{number}, {number}]"
    if largest < 1e-3 or largest >= 1e6:
        shown = [format_number(value) for value in (mean, low, high)]
    else:
        decimals = max(0, 1 - math.floor(math.log10(half)))
        shown = [f"{value:.{decimals}f}" for value in (mean, low, high)]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]"


def format_bound(finding: Finding, level: Level) -> str:
    """What the claim says about the quantity: `> 0.05`, or `≤ 1e-8` at level exact; empty if nothing."""
    if finding.above is not None:
        sign, threshold = ("≥" if level is Level.EXACT else ">"), finding.above
    elif finding.below is not None:
        sign, threshold = ("≤" if level is Level.EXACT else "<"), finding.below
    else:
        return ""
    return f"{sign} {format_number(threshold)}"


def format_measured(finding: Finding, level: Level) -> str:
    """What was measured: mean and interval, or for level exact the value nearest to its bound."""
    if level is Level.EXACT:
        number = format_number(finding.extreme)
    elif any(not math.isfinite(value) for value in finding.values):
        bad = sum(not math.isfinite(value) for value in finding.values)
        return f"not finite in {bad} of {len(finding.values)} seeds"
    else:
        number = format_interval(finding.mean, finding.low, finding.high)
    return f"{number} {finding.unit}" if finding.unit else number


def format_seconds(seconds: float) -> str:
    """Seconds for a table: one decimal below ten, none above."""
    return f"{seconds:.1f}" if seconds < 10 else f"{seconds:.0f}"


def format_duration(seconds: float) -> str:
    """A duration for a reader: `8.3 s`, `3 min 20 s`, `2 h 05 min`."""
    if 0 <= seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
