"""Files of the tests' generator, tiny and made once."""

from fusion_checks import make_bert

__all__ = ["make_bert"]
