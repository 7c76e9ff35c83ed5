"""Requests and results of token classification as pydantic models: checked, JSON-able, and describable over HTTP."""

from __future__ import annotations

from pydantic import BaseModel, Field, StrictBool

from sparsert.errors import InputError

__all__ = ["TokenClassificationInput", "TokenClassificationOutput", "TokenClassificationResult"]


class TokenClassificationInput(BaseModel):
    """Texts in which entities are looked for. Fields that are not listed here are ignored."""

    inputs: str | list[str] = Field(description="A text, a list of texts, or the words of one text")
    is_split_into_words: StrictBool = Field(
        default=False, description="Whether inputs are the words of one text, which are tokenized one by one"
    )

    def texts(self) -> list[str]:
        """The texts, or the words of the only one.

        Raises
        ------
        InputError
            There are none, or a text stands where words should.
        """
        if isinstance(self.inputs, str):
            if self.is_split_into_words:
                raise InputError("inputs must be a list of words with is_split_into_words, got a string; split it")
            return [self.inputs]
        if not self.inputs:
            raise InputError("inputs is empty: expected a text, or a list of at least one")
        return self.inputs


class TokenClassificationResult(BaseModel):
    """An entity: a token, or tokens that belong together. It is ``text[start:end]``, in code points."""

    entity: str = Field(description="The label; of tokens that belong together, without B- or I-")
    score: float = Field(description="Probability of the label; of tokens that belong together, a mean")
    word: str = Field(
        description="The token as the vocabulary has it, or what the tokenizer's decoder makes of several"
    )
    start: int = Field(description="Index of the first code point in the text")
    end: int = Field(description="Index after the last code point in the text")
    index: int = Field(description="Place of the first token in the row that the model reads, special tokens included")
    is_grouped: bool = Field(default=False, description="Whether tokens that belong together were joined")


class TokenClassificationOutput(BaseModel):
    """The entities of each text, in the order of the text."""

    predictions: list[list[TokenClassificationResult]] = Field(description="For each text, its entities")
