"""Loading tokenizers, against what transformers makes of the same files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sparsert.errors import InputError, ModelFormatError
from sparsert.pipelines.tokenization import load_tokenizer

TEXT = "Élodie's GPU-class runtime; 漢字 don't [MASK] 🙂 unaffable"


@pytest.fixture
def directory(model_directory: Path, tmp_path: Path) -> Path:
    """A copy of the default model's tokenizer files."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(model_directory / name, tmp_path)
    return tmp_path


def configure(directory: Path, **settings: object) -> None:
    path = directory / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.mark.parametrize(
    "settings", [{}, {"do_lower_case": False}, {"strip_accents": False}, {"tokenize_chinese_chars": False}]
)
def test_equal_to_transformers(directory: Path, settings: dict) -> None:
    from transformers import AutoTokenizer

    configure(directory, **settings)
    expected = AutoTokenizer.from_pretrained(directory)(TEXT, add_special_tokens=False, return_offsets_mapping=True)
    tokens = load_tokenizer(directory).encode(TEXT)
    assert tokens.ids.tolist() == expected["input_ids"]
    assert tokens.offsets.tolist() == [list(pair) for pair in expected["offset_mapping"]]


def test_a_bare_vocabulary_is_converted(directory: Path) -> None:
    expected = load_tokenizer(directory).encode(TEXT).ids.tolist()
    vocabulary = json.loads((directory / "tokenizer.json").read_text())["model"]["vocab"]
    (directory / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)) + "\n")
    (directory / "tokenizer.json").unlink()
    tokenizer = load_tokenizer(directory)
    assert tokenizer.encode(TEXT).ids.tolist() == expected
    assert tokenizer.template.special_tokens == 3


def test_truncation_and_padding_saved_with_a_tokenizer_are_ignored(directory: Path) -> None:
    path = directory / "tokenizer.json"
    content = json.loads(path.read_text())
    content["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {
        "strategy": {"Fixed": 64},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 7,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    path.write_text(json.dumps(content))
    tokenizer = load_tokenizer(directory)
    assert len(tokenizer.encode("one two three four five six")) == 6
    assert tokenizer.pad_id == 0  # by pad_token
    (directory / "tokenizer_config.json").unlink()
    assert load_tokenizer(directory).pad_id == 7


@pytest.mark.parametrize("pad_token", ["[UNK]", {"content": "[UNK]", "lstrip": False}])
def test_the_padding_token_is_the_configured_one(directory: Path, pad_token: object) -> None:
    configure(directory, pad_token=pad_token)
    assert load_tokenizer(directory).pad_id == 100


def test_broken_files_are_named(directory: Path) -> None:
    configure(directory, padding_side="top")
    with pytest.raises(ModelFormatError, match="padding_side .* got 'top'"):
        load_tokenizer(directory)
    (directory / "tokenizer_config.json").write_text("[]")
    with pytest.raises(ModelFormatError, match="tokenizer_config.json must hold a JSON object, got list"):
        load_tokenizer(directory)
    (directory / "tokenizer_config.json").write_text("{")
    with pytest.raises(ModelFormatError, match="tokenizer_config.json is not JSON"):
        load_tokenizer(directory)
    (directory / "tokenizer_config.json").write_text("{}")
    (directory / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelFormatError, match="tokenizer.json is not a tokenizer"):
        load_tokenizer(directory)


def test_transformers_is_not_imported_for_a_tokenizer_json(model_directory: Path) -> None:
    code = (
        "import sys; from sparsert.pipelines.tokenization import load_tokenizer; "
        "load_tokenizer(sys.argv[1]); assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(model_directory)], check=True)


@pytest.mark.parametrize(
    ("given", "token"),
    [(None, "[UNK]"), ("[MASK]", "[MASK]"), ({"content": "!"}, "!"), ("not in the vocabulary", None)],
)
def test_the_unknown_token_is_that_of_the_files(directory: Path, given: object, token: str | None) -> None:
    configure(directory, unk_token=given)
    tokenizer = load_tokenizer(directory)
    assert tokenizer.unknown_id == (None if token is None else tokenizer.backend.token_to_id(token))


def test_given_words_are_tokenized_one_by_one(directory: Path) -> None:
    tokenizer = load_tokenizer(directory)
    words = ["unaffable", "", "don't", "GPU class"]
    tokens = tokenizer.encode_words(words)
    alone = [tokenizer.encode(word) for word in words]
    assert tokens.ids.tolist() == [number for word in alone for number in word.ids.tolist()]
    assert tokens.offsets.tolist() == [pair for word in alone for pair in word.offsets.tolist()]
    assert tokens.words is not None
    assert tokens.words.tolist() == [place for place, word in enumerate(alone) for _ in word.ids]
    with pytest.raises(InputError, match="lone surrogates"):
        tokenizer.encode_words(["a", "\ud800"])
    with pytest.raises(InputError, match="must be a str, got None"):
        tokenizer.encode_words(["a", None])
