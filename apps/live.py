"""How far a running scan is, drawn again every few seconds."""

from __future__ import annotations

import time

import streamlit as st

from analyzer.errors import WorkbenchError
from analyzer.views import coverage
from analyzer.views.coverage import Running, Seen
from apps.answers import ask
from apps.text import literal

_KEPT = 240  # observations: 20 minutes of them


def progress() -> None:
    """A bar, a rate and, where it can honestly be told, the time left; nothing if no scan runs.

    When the scan ends the whole page is drawn again.
    """
    is_running = _now() is not None
    st.fragment(_draw, run_every="5s" if is_running else "30s")()


def _now() -> Running | None:
    try:
        return ask(coverage.running)
    except WorkbenchError as error:
        # a fragment runs outside the frame that turns errors into lines
        st.caption(literal(error))
        return None


def _draw() -> None:
    now = _now()
    watched: tuple[int, tuple[Seen, ...]] | None = st.session_state.get("watched")
    if now is None:
        if watched is not None:
            del st.session_state["watched"]
            st.rerun()
        return
    seen = _observe(now, watched[1] if watched and watched[0] == now.scan_id else ())
    st.session_state["watched"] = (now.scan_id, seen)
    st.progress(
        now.fraction,
        f"Scan {now.scan_id}, begun {literal(now.started_at)} on {literal(now.device)}: "
        f"{now.spectra:,} of {now.matrices:,} matrices have their singular values, "
        f"{now.done:,} results in all.",
    )
    st.caption(_pace(now, seen))


def _observe(now: Running, seen: tuple[Seen, ...]) -> tuple[Seen, ...]:
    return (*seen, Seen(time.time(), now.done, now.work_done))[-_KEPT:]


def _pace(now: Running, seen: tuple[Seen, ...]) -> str:
    """Rate and time left of a scan, or since when nothing came."""
    grew = next((s.at for s in reversed(seen) if s.done != now.done), None)
    quiet = seen[-1].at - (grew if grew is not None else seen[0].at)
    if quiet > coverage.QUIET:
        return (
            f"Nothing new for {quiet / 60:.0f} min: the scan works on something large, or was "
            "killed. `analyzer scan` takes up what is missing."
        )
    rate, left = coverage.rate(seen), coverage.seconds_left(seen, now)
    parts = ["Watching for the first new results." if rate is None else f"{rate:.2g} results/s."]
    if left is not None:
        parts.append(f"At this pace the missing spectra take about {_duration(left)}.")
    return " ".join(parts)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
