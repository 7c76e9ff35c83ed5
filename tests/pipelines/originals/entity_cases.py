"""Texts, options and logits of token classification that the original and sparsert are both given.

Made of integers and uniform numbers of ``numpy.random.RandomState``, whose streams no version of NumPy changes. Scores
are equal only where every machine finds them equal: for equal logits, or for those so far apart that others vanish.
"""

from typing import Any

import numpy as np

LABELS = (
    ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC"),
    ("O", "PER", "LOC"),
    ("O", "B-X", "I-X", "E-X", "S-X"),
    ("O", "B-PER-X", "I-PER-X", "B-PER-Y", "I-PER-Y", "PER-X"),
    ("NEGATIVE", "POSITIVE"),
    ("LABEL_0",),
)
IGNORED = (("O",), ("O",), ("O",), (), ("PER",), ("O", "B-PER", "X"), ("NEGATIVE",))
STRATEGIES = ("none", "simple", "first", "average", "max")
LOGITS = ("random", "flat", "tied", "repeated", "extreme")
SIDES = {"whole_words": "left"}
"""Tokenizers that cut a text at another side than the right one."""

ODD_TEXTS = (
    "",
    " ",
    " \n\t ",
    "Émile Zola naïvely ate crème brûlée in Besançon.",
    "İstanbul'da İbrahim ﬁnds the oﬃce of ﬂowers.",
    "中文和日本語のテキスト, then 한국어 text.",
    "Emoji 😀😀 and 👩‍👩‍👧‍👦 families 🇫🇷 in Paris",
    "a\x00b \x00\x00 Ada\x00Lovelace",
    "one\ntwo\tthree\u00a0four\u2003five\r\nsix",
    "Donaudampfschifffahrtsgesellschaftskapitän Internationalization",
    "U.S.A. and U.N., e.g. (New-York) don't re-enter!!! ... 'quoted' \"x\"",
    "  leading and   many    spaces between   ",
    "ⓐⓑ ½ ℌ Å e\u0301 o\u0308 ﷺ",
    "שלום עולם ومرحبا بالعالم",
    "http://example.org/a-b_c?d=e&f=#g user@example.com",
    "x",
)


def texts(contexts: list[str], count: int, seed: int) -> list[str]:
    """The odd texts, and as many pieces of contexts, of 1 to 25 words, as make up ``count``."""
    random = np.random.RandomState(seed)
    found = list(ODD_TEXTS)
    while len(found) < count:
        context = contexts[random.randint(len(contexts))]
        words = context.split(" ")
        begin = random.randint(len(words))
        found.append(" ".join(words[begin : begin + random.randint(1, 26)]))
    return found


def case(number: int, text_count: int) -> dict[str, Any]:
    """What is done in one case: a fifth of them with windows, a tenth cut, some with words that are given."""
    random = np.random.RandomState(number)
    windows = int(random.randint(10))
    labels = int(random.randint(len(LABELS) * 2))
    stride = int(random.randint(4)) if windows >= 8 else None
    return {
        "text": int(random.randint(text_count)),
        "labels": labels if labels < len(LABELS) else 0,
        "ignored": int(random.randint(len(IGNORED))),
        # Windows of the original need some aggregation
        "strategy": STRATEGIES[random.randint(0 if stride is None else 1, len(STRATEGIES))],
        "logits": LOGITS[random.randint(len(LOGITS))],
        "max_length": None if windows < 7 else int(random.randint(8, 16)),
        "stride": stride,
        "same_logits_in_windows": bool(random.randint(2)),
        "split": None if windows > 1 or random.randint(2) else (" ", "", "_")[random.randint(3)],
    }


def logits(kind: str, seed: int, tokens: int, labels: int) -> np.ndarray:
    """Logits of tokens, float32 of shape (tokens, labels)."""
    random = np.random.RandomState(seed)
    shape = (tokens, labels)
    if kind == "tied":
        values = np.where(random.randint(3, size=shape) == 0, 0.0, -1e4)
    elif kind == "repeated":
        values = (random.random_sample((3, labels)) * 8 - 4)[random.randint(3, size=tokens)]
    elif kind == "extreme":
        values = np.array([-1e30, -1e4, -100.0, 0.0, 100.0, 1e4, 1e30])[random.randint(7, size=shape)]
    else:
        values = (random.random_sample(shape) - 0.5) * (12 if kind == "random" else 0.5)
    return values.astype(np.float32)


def window_logits(case: dict[str, Any], number: int, counts: list[int]) -> list[np.ndarray]:
    """Logits of the ordinary tokens of windows with so many of them; in half of the cases the same where they overlap.

    That is where windows begin from the left; else it is something as arbitrary.
    """
    labels, begin, found = len(LABELS[case["labels"]]), 0, []
    for window, tokens in enumerate(counts):
        if case["same_logits_in_windows"]:
            found.append(logits(case["logits"], number, begin + tokens, labels)[begin:])
            begin += tokens - (case["stride"] or 0)
        else:
            found.append(logits(case["logits"], number + window, tokens, labels))
    return found
