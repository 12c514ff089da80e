"""Views of the store, cached by its version; the last answer while a scan holds the file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import streamlit as st

from analyzer.errors import StoreLocked
from analyzer.store.reading import Store, default_store
from analyzer.views.view import View

Version = tuple[int, ...]


@dataclass(slots=True)
class _Kept:
    """Answers of one store by question, with the time they were read."""

    answers: dict[tuple[Any, ...], tuple[float, Any]] = field(default_factory=dict)


def store() -> Store:
    """The store named on the command line (`--db FILE`), else ``$ANALYZER_DB``, else the default.

    No widget or address can name another file. It is not opened here: a scan may be writing.
    """
    arguments = sys.argv[1:]
    named = arguments[arguments.index("--db") + 1] if "--db" in arguments[:-1] else None
    return Store(default_store(named))


def version(db: Path) -> Version:
    """Changes whenever a writer has committed."""
    files = [db, db.with_name(db.name + ".wal")]
    return tuple(n for f in files if f.exists() for n in (f.stat().st_mtime_ns, f.stat().st_size))


def ask(view: Callable[..., Any], *arguments: Any) -> Any:
    """`view(store, *arguments)`, computed once a version of the store.

    While another process holds the file, the last answer to the same question, and a word that it
    is not the newest. Raises what `view` raises; StoreLocked where nothing was read before.
    """
    opened = store()
    question = (str(opened.db), view.__module__, view.__qualname__, *arguments)
    kept = _kept()
    try:
        answer = _answer(version(opened.db), question, view, opened, arguments)
    except StoreLocked:
        if question not in kept.answers:
            raise
        read_at, answer = kept.answers[question]
        _say_stale(read_at)
        return answer
    kept.answers.pop(question, None)
    kept.answers[question] = (time.time(), answer)
    while len(kept.answers) > MOST_KEPT:
        kept.answers.pop(next(iter(kept.answers)))
    return answer


MOST_KEPT = 200


@st.cache_data(max_entries=400, show_spinner=False)
def _answer(
    version: Version,
    question: tuple[Any, ...],
    _view: Callable[..., Any],
    _store: Store,
    _arguments: tuple[Any, ...],
) -> Any:
    del version, question  # the key of the cache
    return _view(_store, *_arguments)


@st.cache_resource(max_entries=1)
def _kept() -> _Kept:
    return _Kept()


def _say_stale(read_at: float) -> None:
    clock = time.strftime("%H:%M:%S", time.localtime(read_at))
    st.caption(f"A scan is writing: data as of {clock}.")


def is_empty(view: View, command: str, what: str) -> bool:
    """Whether the view has no rows; says then which command fills it."""
    if not view.is_empty:
        return False
    st.info(f"{what} Fill it with `{command}`.")
    return True
