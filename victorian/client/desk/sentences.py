"""Where a sentence ends, in English prose with titles and initials in it."""

import re

_END = re.compile(r"([.!?…]+)([\"'”’)\]]*)(?=\s)")
_TITLES = {
    *("mr", "mrs", "ms", "messrs", "dr", "st", "rev", "hon", "esq", "prof"),
    *("capt", "col", "gen", "lieut", "sergt", "sen", "jun", "vol", "viz"),
}


def sentence_end(text: str) -> int | None:
    """Characters up to the end of the first sentence that is over, which white space after it tells; None for none.

    >>> sentence_end("Mr. Pickwick smiled. Then")
    20
    """
    for found in _END.finditer(text):
        if found[1] == "." and _abbreviated(text[: found.start()]):
            continue
        return found.end()
    return None


def _abbreviated(before: str) -> bool:
    """Whether a full stop belongs to the word before it: a title, or an initial, as long as that is not I."""
    word = re.search(r"[^\W\d_]+$", before)
    if word is None:
        return False
    return word[0].lower() in _TITLES or (len(word[0]) == 1 and word[0].isupper() and word[0] != "I")
