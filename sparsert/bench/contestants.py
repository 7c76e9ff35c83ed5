"""Who takes part in a comparison: which engine, on which model, in which interpreter."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparsert.bench.engines import ENGINES
from sparsert.bench.settings import Settings
from sparsert.errors import InputError, InputRangeError

__all__ = ["Contestant", "make_contestants", "parse_assignments"]


@dataclass(frozen=True)
class Contestant:
    """One row of a comparison.

    Attributes
    ----------
    name : str
        ``ENGINE`` or ``ENGINE:LABEL``.
    engine : str
    model : str
        Model reference.
    python : str
        Interpreter that has the engine.
    settings : Settings or None
        Its own, where they differ from those of the comparison; it then gets arrays of its own as well.
    ragged : bool
        Sequences as long as their masks say, through ``Engine.run_ragged``; sparsert only.
    """

    name: str
    engine: str
    model: str
    python: str
    settings: Settings | None = None
    ragged: bool = False


def parse_assignments(options: Sequence[str], flag: str) -> dict[str, str]:
    """Parse ``NAME=VALUE`` options into a dict.

    Raises
    ------
    InputError
        An option has no ``=``, an empty side, or a name that came before.
    """
    parsed: dict[str, str] = {}
    for option in options:
        name, _, value = option.partition("=")
        if not name or not value:
            raise InputError(f"{flag} expects NAME=VALUE, given {option!r}")
        if name in parsed:
            raise InputError(f"{flag} gives {name!r} twice: {parsed[name]!r} and {value!r}")
        parsed[name] = value
    return parsed


def make_contestants(
    names: Sequence[str], model: str, models: Mapping[str, str], pythons: Mapping[str, str]
) -> list[Contestant]:
    """Combine the names of a comparison with their models and interpreters.

    Parameters
    ----------
    names : sequence of str
        ``ENGINE`` or ``ENGINE:LABEL``; the label tells apart several rows of one engine.
    model : str
        Model reference of every row that `models` does not name.
    models, pythons : mapping
        Row name -> model reference, and -> interpreter.  An ``ENGINE`` without a label stands for all its rows that are
        not named in full.

    Raises
    ------
    InputError
        An unknown engine, a row that comes twice, an assignment to a row that does not exist, a missing interpreter.
    """
    known = set()
    contestants = []
    for name in names:
        engine = name.partition(":")[0]
        if engine not in ENGINES:
            raise InputRangeError(f"Invalid engine choice '{engine}'. Choose one of {', '.join(ENGINES)}.")
        if name in known:
            raise InputError(f"{name!r} takes part twice. Tell rows apart with labels: {name},{name}:again")
        known.add(name)
        contestants.append(
            Contestant(
                name=name,
                engine=engine,
                model=models.get(name, models.get(engine, model)),
                python=_interpreter(pythons.get(name, pythons.get(engine, sys.executable))),
            )
        )
    addressable = known | {contestant.engine for contestant in contestants}
    for flag, assignments in (("--model-for", models), ("--python", pythons)):
        for name in assignments:
            if name not in addressable:
                raise InputError(f"{flag} names {name!r}, but only {', '.join(sorted(addressable))} take part.")
    return contestants


def _interpreter(python: str) -> str:
    # Not resolved further: a virtual environment's interpreter is a link whose own place decides what it can import.
    path = shutil.which(str(Path(python).expanduser()))
    if path is None:
        raise InputError(f"--python: no interpreter at {python}. Give the path of a python that has the engine.")
    return path
