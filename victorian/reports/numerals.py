"""Numbers as people read them."""


def whole(value: float) -> str:
    """1234567 as 1,234,567."""
    return f"{value:,.0f}"


def short(value: float) -> str:
    """1234567 as 1.23M: three figures are enough to compare by."""
    for power, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * power:
            return _three_figures(value / power) + letter
    return _three_figures(value)


def readable_bytes(value: float) -> str:
    """1234567 as 1.23 MB, in powers of a thousand."""
    for power, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(value) >= 0.9995 * power:
            return f"{_three_figures(value / power)} {unit}"
    return f"{_three_figures(value)} B"


def duration(seconds: float) -> str:
    """3725 as 1 h 2 min, 725 as 12 min, 72.4 as 1 min 12 s, 3.14159 as 3.1 s."""
    if seconds < 9.95:
        return f"{seconds:.1f} s" if seconds >= 0.05 or not seconds else "under 0.1 s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 10:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    if seconds < 3_570:
        return f"{seconds / 60:.0f} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes} min" if minutes else f"{hours:,} h"


def share(part: float, of: float) -> str:
    """1 of 3 as 33%. What is there is never 0%, and what is not all is never 100%."""
    if not of:
        return "–"
    ratio = part / of
    if 0 < ratio < 0.01:
        return "under 0.1%" if ratio < 0.0005 else f"{ratio:.1%}"
    if 0.99 < ratio < 1:
        return "over 99.9%" if ratio > 0.9995 else f"{ratio:.1%}"
    return f"{ratio:.0%}"


def counted(count: int, noun: str) -> str:
    """1 as `1 book`, 2 as `2 books`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def shortened(text: str, most: int) -> str:
    """At most so many characters, white space made single; … stands for what is missing."""
    text = " ".join(text[: 4 * most].split())
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def _three_figures(value: float) -> str:
    figures = f"{value:.3g}"
    return figures if "e" not in figures else f"{value:.0f}"
