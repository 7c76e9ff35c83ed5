"""Files of the reference generator, tiny and made once."""

from fusion_checks import make_bert

__all__ = ["make_bert"]
