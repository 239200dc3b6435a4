"""How the pages of this folder are made from their templates: what comes from outside is text, never markup."""

from collections.abc import Callable

from jinja2 import Environment, PackageLoader, StrictUndefined

from victorian.reports.numerals import counted, duration, readable_bytes, share, short, shortened, whole


def environment() -> Environment:
    """Templates of this folder, with the numerals as filters."""
    made = Environment(
        loader=PackageLoader("victorian.reports", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    numerals: tuple[Callable[..., str], ...] = (whole, short, readable_bytes, duration, share, counted, shortened)
    made.filters |= {word.__name__: word for word in numerals}
    return made
