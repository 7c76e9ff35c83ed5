"""A model that reads rows of one or two texts, with its tokenizer: what all text tasks but question answering share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsert.errors import EngineError, InputError, InputRangeError
from sparsert.model_config import read_config
from sparsert.pipelines.engines import Padding, SequenceEngine, fixed_length, load_engines
from sparsert.pipelines.executors import OrderedPool
from sparsert.pipelines.options import PipelineOptions, at_least, option
from sparsert.pipelines.rows import PackedRows, Row, make_row, pack_rows
from sparsert.pipelines.tokenization import load_tokenizer
from sparsert.zoo import ResolvedModel

_log = logging.getLogger(__name__)

__all__ = ["PreparedRows", "RowModel", "RowOutputs", "TextOptions", "gather", "tokens_of"]

# Tokens per engine call unless batch_size says otherwise: enough to keep all tiles of all cores busy, few enough that
# any number of texts takes bounded memory.
MAX_TOKENS = 16384

# Where neither the model nor its tokenizer says how much they take.
_USUAL_LENGTH = 512


@dataclass(frozen=True, kw_only=True)
class TextOptions(PipelineOptions):
    """The options of tasks that read texts."""

    sequence_length: int | Sequence[int] | None = option(
        None,
        "most tokens of a row, special tokens included; of a list, which other engines need, the greatest counts",
        shown="what the model takes",
    )
    truncation: bool = option(True, "cut longer texts; False refuses them")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(sequence_length=_longest(self.sequence_length), truncation=bool(self.truncation))


def _longest(length: int | Sequence[int] | None) -> int | None:
    """Check ``sequence_length``; of a list, the greatest."""
    if isinstance(length, Sequence) and not isinstance(length, str) and length:
        return max(at_least("sequence_length", value, 1) for value in length)
    return None if length is None else at_least("sequence_length", length, 1)  # type: ignore[arg-type]


@dataclass(frozen=True)
class PreparedRows:
    """A request as rows of model input."""

    inputs: Any
    rows: Sequence[Row]


@dataclass(frozen=True)
class RowOutputs:
    """What the model says about some rows of ``N`` tokens: per token, shape (N, ...), or per row, shape (W, ...)."""

    rows: PackedRows
    outputs: Mapping[str, np.ndarray]

    @property
    def engine_inputs(self) -> dict[str, np.ndarray]:
        """What went into the engine, by name."""
        return self.rows.arrays

    @property
    def engine_outputs(self) -> dict[str, np.ndarray]:
        """What came out of it, by name."""
        return dict(self.outputs)

    def of_rows(self, role: str, per_token: bool) -> list[np.ndarray]:
        """An output's values for each row: those of its tokens, shape (T, ...), or its own, shape (...).

        Raises
        ------
        EngineError
            The output has values for the others.
        """
        values = self.outputs[role]
        # Where every row has one token, only the caller knows which of both it is.
        wanted = int(self.rows.lengths.sum()) if per_token else len(self.rows.lengths)
        if len(values) != wanted:
            kind = "token" if per_token else "row"
            raise EngineError(f"the model's {role} have shape {values.shape}, expected one for each {kind}, {wanted}")
        return np.split(values, self.rows.begins[1:]) if per_token else list(values)


class RowModel:
    """Tokenizer and engine of a model that reads rows. Safe to use from several threads.

    Parameters
    ----------
    model : ResolvedModel
        The files.
    options : TextOptions
        Options of the pipeline.
    outputs : callable
        Takes the model's outputs, and says which of them to return, see :func:`load_engines`.
    limit : int, optional
        Most tokens of a row by a file that goes before the tokenizer's.
    lower_case : bool
        Whether texts are brought to lower case before the tokenizer sees them.

    Attributes
    ----------
    config : ModelConfig
        What ``config.json`` says.
    tokenizer : TextTokenizer
        Makes tokens of texts.
    sequence_length : int
        Most tokens of a row, special tokens included.
    engine : SequenceEngine
        Runs the model.

    Raises
    ------
    ModelError
        The model or its tokenizer cannot be found, read or run.
    InputRangeError
        ``sequence_length`` holds no text, or exceeds the model's positions.
    """

    def __init__(
        self,
        model: ResolvedModel,
        options: TextOptions,
        outputs: Callable[[Any], Mapping[str, Any]],
        limit: int | None = None,
        lower_case: bool = False,
    ) -> None:
        self.options = options
        self.config = read_config(model.directory, model.root)
        self.tokenizer = load_tokenizer(model.directory, lower_case)
        limits = [limit or self.tokenizer.max_length, self.config.positions, fixed_length(model.onnx)]
        usual = min((value for value in limits if value is not None), default=_USUAL_LENGTH)
        self.sequence_length = _longest(options.sequence_length) or usual
        if self.sequence_length <= self.tokenizer.single.special_tokens:
            raise InputRangeError(
                f"sequence_length {self.sequence_length} leaves no room for text beside the "
                f"{self.tokenizer.single.special_tokens} special tokens"
            )
        self.engine: SequenceEngine = load_engines(model, options, [self.sequence_length], outputs)[
            self.sequence_length
        ]
        self._columns = 0 if self.engine.any_length else self.sequence_length
        self._files = model
        self._told_of_cut = False
        self._pool = OrderedPool(options.executor, self.engine.engine.num_streams)

    @property
    def longest(self) -> int | None:
        """Most tokens that :attr:`sequence_length` may be changed to; None if nothing bounds it."""
        return self._columns or self.config.positions

    # ---- texts to rows -----------------------------------------------------------------------------------------------

    def tokenize(self, texts: Iterable[str]) -> dict[str, np.ndarray | InputError]:
        """Token ids of texts, each different one once; an InputError stands for what the model cannot read."""
        different = list(dict.fromkeys(texts))
        found = zip(different, self.tokenizer.encode_ids(different), strict=True)
        return {text: ids if isinstance(ids, InputError) else self.misfit(ids) or ids for text, ids in found}

    def misfit(self, ids: np.ndarray) -> InputRangeError | None:
        """What is wrong with tokens, if the model does not have them: the tokenizer belongs to another one."""
        known = self.engine.vocabulary
        if known is None or not ids.size or (worst := int(ids.max())) < known:
            return None
        return InputRangeError(
            f"the tokenizer in {self._files.directory} has the token {self.tokenizer.backend.id_to_token(worst)!r} as "
            f"{worst}, but the vocabulary (embedding table) of {self._files.onnx} ends at {known - 1}; save the "
            "model's own tokenizer there"
        )

    def row(self, first: np.ndarray, second: np.ndarray | None = None, strategy: str = "longest_first") -> Row:
        """A row of one text or two, cut by ``strategy`` where ``truncation`` allows that.

        Raises
        ------
        InputRangeError
            It does not fit, or has neither tokens nor special tokens.
        """
        chosen = strategy if self.options.truncation else "do_not_truncate"
        row = make_row(self.tokenizer, first, second, self.sequence_length, chosen)
        if not self.row_tokens(row):
            raise InputRangeError("the tokenizer makes no tokens of the text, and adds no special ones; leave it out")
        return row

    def row_tokens(self, row: Row) -> int:
        """Tokens of a row with its special tokens."""
        layout = self.tokenizer.single if row.second is None else self.tokenizer.template
        return len(row) + layout.special_tokens

    def tokens(self, prepared: PreparedRows) -> int:
        """Tokens of all rows of a request."""
        return max(sum(map(self.row_tokens, prepared.rows)), 1)

    # ---- rows through the engine -------------------------------------------------------------------------------------

    def forward(
        self,
        prepared: Sequence[PreparedRows],
        reduce: Callable[[PackedRows, Mapping[str, np.ndarray]], Mapping[str, np.ndarray]] | None = None,
    ) -> Iterator[RowOutputs]:
        """Run the rows of all requests, see :meth:`run`; :func:`gather` gives each request its own again."""
        return self.run([row for item in prepared for row in item.rows], reduce)

    def run(
        self,
        rows: Sequence[Row],
        reduce: Callable[[PackedRows, Mapping[str, np.ndarray]], Mapping[str, np.ndarray]] | None = None,
    ) -> Iterator[RowOutputs]:
        """Run rows, a slice of them at a time, in order.

        Parameters
        ----------
        rows : sequence of Row
            May be empty. That one was cut is told by a warning, once a model.
        reduce : callable, optional
            Makes of the outputs of a slice what is kept of them.
        """

        self._tell_of_cut(rows)

        def run(part: Sequence[Row]) -> RowOutputs:
            packed = pack_rows(part, self.tokenizer)
            outputs = self.engine.run_packed(packed.arrays, packed.lengths, self._padding())
            return RowOutputs(packed, outputs if reduce is None else reduce(packed, outputs))

        return self._pool.map(run, self._slices(rows))

    def _padding(self) -> Padding:
        """To the right, as little as possible: what stands to the left of a text would move its positions."""
        values = {"input_ids": self.tokenizer.pad_id, "attention_mask": 0, "token_type_ids": self.tokenizer.pad_type}
        return Padding(self._columns, False, values)

    def _tell_of_cut(self, rows: Sequence[Row]) -> None:
        row = None if self._told_of_cut else next((row for row in rows if row.cut), None)
        if row is not None:
            self._told_of_cut = True
            _log.warning(
                "%d of %d tokens are cut off: %s reads %d at most, with special tokens; split long texts, or refuse "
                "them by truncation=False. Further ones are cut without a word",
                row.cut,
                len(row) + row.cut,
                self._files.directory,
                self.sequence_length,
            )

    def _slices(self, rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
        most = self.options.batch_size or len(rows)
        begin = tokens = 0
        for index, row in enumerate(rows):
            size = self.row_tokens(row)
            if index > begin and (tokens + size > MAX_TOKENS or index - begin == most):
                yield rows[begin:index]
                begin, tokens = index, 0
            tokens += size
        if begin < len(rows):
            yield rows[begin:]


def gather(
    prepared: Sequence[PreparedRows],
    parts: Iterable[RowOutputs],
    role: str,
    per_token: bool | Sequence[bool] = False,
) -> list[list[np.ndarray]]:
    """What an output says about each row of each request.

    Parameters
    ----------
    prepared : sequence of PreparedRows
        The requests.
    parts : iterable of RowOutputs
        What the model says about their rows, in order.
    role : str
        Name of the output.
    per_token : bool or sequence of bool
        Whether it has values for tokens; or whether it has for each request, if no part has both kinds.

    Returns
    -------
    list of list of array
        For each request and each of its rows: the row's tokens, shape (T, ...), or its own values, shape (...).
    """
    kinds = [per_token] * len(prepared) if isinstance(per_token, bool) else per_token
    of_rows = [kind for item, kind in zip(prepared, kinds, strict=True) for _ in item.rows]
    rows: list[np.ndarray] = []
    for part in parts:
        rows += part.of_rows(role, of_rows[len(rows)])
    found = iter(rows)
    return [[next(found) for _ in item.rows] for item in prepared]


def tokens_of(found: Mapping[str, np.ndarray | InputError], texts: Sequence[str], field: str) -> list[np.ndarray]:
    """Token ids of the texts of a request, from those of :meth:`RowModel.tokenize`.

    Raises
    ------
    InputError
        One of them is no text; the message names the field and the place.
    """
    tokens = []
    for index, text in enumerate(texts):
        ids = found[text]
        if isinstance(ids, InputError):
            raise InputError(f"{field}[{index}]: {ids}") from ids
        tokens.append(ids)
    return tokens
