"""Whether the rows of a corpus are pieces of longer texts: an item that lies over two rows is found in neither."""

from collections import Counter
from collections.abc import Iterator, Mapping

_LEAST_PIECE, _UNEVEN = 40, 3
"""Characters of a piece of a text cut by its length, and how far two differ, blanks and marks at their ends aside."""
_LEAST_BORDERS, _CUT_SHARE = 10, 0.4
_AROUND_TEXT, _ENDS = " \t\r\n\"'()[]\u201c\u201d", ".?!:;"


class Borders:
    """Counts how a free text begins, by how the one before it and it itself end: with a mark, or cut off."""

    def __init__(self, counts: dict[str, int]) -> None:
        self.counts = counts
        """By `<field> TAB <what>`; `cut_up` reads them."""
        self._ended = ("", "", 0)
        """Field, end and length of the text before."""

    def look(self, field: str, text: str) -> None:
        """Count the border before a row's text; an empty text ends what went before."""
        text = text.strip(_AROUND_TEXT)
        if not text:
            self._ended = "", "", 0
            return
        begins, ends = "small" if text[0].islower() else "other", "mark" if text[-1] in _ENDS else "cut"
        before, ended, length = self._ended
        if before == field:
            found = [f"before {ended} {begins}", f"itself {ends} {begins}"]
            even = length >= _LEAST_PIECE and abs(length - len(text)) <= _UNEVEN
            found += ["even"] * (even and found[0] == "before cut small")
            for name in found:
                self.counts[f"{field}\t{name}"] = self.counts.get(f"{field}\t{name}", 0) + 1
        self._ended = field, ends, len(text)


def cut_up(borders: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """Fields whose rows are pieces of longer texts, and how many go on with the sentence of the row before.

    There a row begins with a small letter where the row before was cut off, and seldom else, however it ends itself.
    Texts of two kinds, sentences here and catchwords there, begin as they end. Or the pieces are of one length.
    """
    counts = Counter(borders)

    def small(name: str, of: str, ends: str) -> float:
        found, others = (counts[f"{name}\t{of} {ends} {begins}"] for begins in ("small", "other"))
        return found / (found + others) if found + others >= _LEAST_BORDERS else 1.0

    for name in sorted({key.partition("\t")[0] for key in borders}):
        further = small(name, "before", "cut") - small(name, "before", "mark")
        own = small(name, "itself", "cut") - small(name, "itself", "mark")
        goes_on, every = (
            sum(count for key, count in borders.items() if key.startswith(f"{name}\tbefore {ends}"))
            for ends in ("cut small", "")
        )
        of_one_length = 2 * counts[f"{name}\teven"] > every
        if goes_on >= _LEAST_BORDERS and (of_one_length or (further >= _CUT_SHARE and own <= further / 2)):
            yield name, goes_on
