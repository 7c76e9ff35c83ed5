"""Answers marked in HTML, read back with the standard library's parser."""

from __future__ import annotations

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from sparsert.pipelines.question_answering.highlight import highlight


class Reader(HTMLParser):
    """Text, and which of it is marked."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text, self.marked = "", ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if "mark" in self.open:
            self.marked += data


@given(
    st.text(st.sampled_from("<>&\"'ab 漢🙂"), max_size=40), st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)))
)
def test_nothing_but_the_answers_is_marked(context: str, places: list[tuple[int, int]]) -> None:
    places = [(min(start, len(context)), min(end, len(context))) for start, end in places]
    reader = Reader(highlight(context, places))
    assert reader.text == context
    inside = [any(start <= index < end for start, end in places) for index in range(len(context))]
    assert reader.marked == "".join(letter for letter, marked in zip(context, inside, strict=True) if marked)
    assert set(reader.tags) <= {"p", "mark"}
    assert reader.open == []


def test_a_long_context_is_cut_around_its_answers() -> None:
    context = "a" * 5000 + "b" + "c" * 100 + "d" + "e" * 5000
    reader = Reader(highlight(context, [(5000, 5001), (5101, 5102)], margin=10))
    assert reader.text == "…" + "a" * 10 + "b" + "c" * 100 + "d" + "e" * 10 + "…"
    assert reader.marked == "bd"
    assert Reader(highlight(context, [], margin=10)).text == "a" * 20 + "…"
