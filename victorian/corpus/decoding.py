"""From the bytes of a file to text, or to the reason why there is none."""

import re
from dataclasses import dataclass
from typing import Literal

from victorian.corpus.selection import Reason

CANDIDATES = ["cp1252", "mac_roman", "cp437", "cp850"]
"""What English books were typed in before UTF-8: Windows, Macintosh, and DOS."""

SAMPLE_BYTES = 32 * 1024
"""What is looked at to tell them apart: text around bytes beyond ASCII."""

_CONTROL = bytes(byte for byte in range(32) if byte not in b"\t\n\v\f\r\x1a\x1b")
_BEYOND_ASCII = re.compile(rb"[^\n]{0,80}[\x80-\xff][^\n]{0,80}")


@dataclass(frozen=True)
class Decoded:
    """A text, or why there is none."""

    text: str
    read_as: str | None = None
    """The encoding it was read in, where that was not plain UTF-8."""
    reason: Reason | None = None


def decode(data: bytes, invalid_utf8: Literal["repair", "drop"]) -> Decoded:
    """The text of a file.

    A file that is UTF-8 but for some damaged bytes keeps its good characters; one that is not UTF-8 at all is read in
    the likeliest encoding of its time, if it may be repaired.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) and len(data) % 2 == 0:
        try:
            return Decoded(data.decode("utf-16"), "utf-16")
        except UnicodeDecodeError:
            pass
    if _is_binary(data):
        return Decoded("", reason="binary")
    try:
        return Decoded(data.decode("utf-8"))
    except UnicodeDecodeError:
        if invalid_utf8 == "drop":
            return Decoded("", reason="not UTF-8")
    mostly = data.decode("utf-8", "surrogateescape")
    strays = sum("\udc80" <= character <= "\udcff" for character in mostly)
    whole = sum(character > "\x7f" for character in mostly) - strays
    if whole >= strays:
        return Decoded(re.sub("[\udc80-\udcff]", _stray, mostly), "utf-8 and cp1252")
    encoding = _guess(data)
    return Decoded(data.decode(encoding, "replace"), encoding)


def _is_binary(data: bytes) -> bool:
    """Whether a file holds zero bytes, or more than one control character in a hundred bytes."""
    if b"\0" in data:
        return True
    return len(data) - len(data.translate(None, _CONTROL)) > len(data) / 100


def _stray(match: re.Match[str]) -> str:
    """A byte that stands alone among UTF-8, as Windows would have it."""
    return bytes([ord(match[0]) - 0xDC00]).decode("cp1252", "ignore")


def _guess(data: bytes) -> str:
    from charset_normalizer import from_bytes  # takes a fifth of a second to import, for files that few corpora hold

    sample = b""
    for found in _BEYOND_ASCII.finditer(data):
        sample += found[0] + b"\n"
        if len(sample) >= SAMPLE_BYTES:
            break
    best = from_bytes(sample, cp_isolation=CANDIDATES, preemptive_behaviour=False).best()
    return best.encoding if best else CANDIDATES[0]
