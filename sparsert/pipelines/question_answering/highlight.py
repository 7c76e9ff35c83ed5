"""A context with its answers marked, as HTML, for notebooks."""

from __future__ import annotations

import html
from collections.abc import Iterable

__all__ = ["highlight"]

# Code points shown before the first and after the last answer: a notebook with a book in each cell is no use.
MARGIN = 500


def highlight(context: str, answers: Iterable[tuple[int, int]], margin: int = MARGIN) -> str:
    """The context as an HTML paragraph, with answers marked and all of its own markup escaped.

    Parameters
    ----------
    context : str
        A text.
    answers : iterable of (int, int)
        First code point of each answer and the one after its last; overlapping ones are joined, empty ones left out.
    margin : int
        Code points that are shown before the first answer and after the last one; without answers, the first
        ``2 * margin`` are.
    """
    marked: list[list[int]] = []
    for start, end in sorted((start, end) for start, end in answers if end > start):
        if marked and start <= marked[-1][1]:
            marked[-1][1] = max(marked[-1][1], end)
        else:
            marked.append([start, end])
    begin = max(marked[0][0] - margin, 0) if marked else 0
    stop = min((marked[-1][1] if marked else begin + margin) + margin, len(context))
    pieces = ["…"] if begin else []
    place = begin
    for start, end in marked:
        pieces += [html.escape(context[place:start]), "<mark>", html.escape(context[start:end]), "</mark>"]
        place = end
    pieces.append(html.escape(context[place:stop]))
    if stop < len(context):
        pieces.append("…")
    # dir="auto" lays out right-to-left text from its first letter; pre-wrap keeps line breaks.
    return f'<p dir="auto" style="white-space: pre-wrap">{"".join(pieces)}</p>'
