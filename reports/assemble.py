"""From a store to a report: sections in their order, glossary, provenance."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from analyzer.errors import UsageError
from analyzer.store.reading import Store
from analyzer.views.metrics import explained, metric
from reports.document import Report, Section
from reports.scope import Scope
from reports.sections import (
    appendix,
    collection,
    emergence,
    intruders,
    limits,
    manifold,
    problems,
    spectra,
    tails,
    tucker,
)

MakeSection = Callable[[Store, Scope], Section | None]
SECTIONS: dict[str, MakeSection] = {
    "collection": collection.section,
    "spectra": spectra.section,
    "intruders": intruders.section,
    "tails": tails.section,
    "emergence": emergence.section,
    "limits": limits.section,
    "tucker": tucker.section,
    "manifold": manifold.section,
    "problems": problems.section,
    "appendix": appendix.section,
}


def assemble(store: Store, scope: Scope, title: str, include: Sequence[str] = ()) -> Report:
    """The report of `scope`; with `include` only the sections named, and what was read and failed.

    Raises UsageError for an unknown section or a store without checkpoints.
    """
    unknown = sorted(set(include) - set(SECTIONS))
    if unknown:
        raise UsageError(
            f"no section named {', '.join(unknown)}", hint=f"sections: {', '.join(SECTIONS)}"
        )
    wanted = {*include, "collection", "problems"} if include else set(SECTIONS)
    chosen = [make for name, make in SECTIONS.items() if name in wanted]
    sections = [section for make in chosen if (section := make(store, scope)) is not None]
    if not sections:
        raise UsageError("the store holds no checkpoint", path=store.db, hint="scan some first")
    return Report(title, _date(store), tuple(sections), _glossary(sections), provenance(store))


def provenance(store: Store) -> dict[str, str]:
    """What made the numbers: versions, command, options and device of the last complete scan."""
    from importlib.metadata import version

    found = {"report": f"spectral-workbench {version('spectral-workbench')}"}
    uuid = store.sql("SELECT value FROM meta WHERE key = 'store_uuid'").column(0).to_pylist()
    found |= {"store": uuid[0]} if uuid else {}
    scans = store.sql("SELECT * FROM scan ORDER BY scan_id DESC LIMIT 1").to_pylist()
    for scan in scans:
        found |= {
            "scan": f"number {scan['scan_id']}, {scan['started_at']} to "
            f"{scan['ended_at'] or 'now running'}, {scan['status']}",
            "command": scan["argv"],
            "options": _options(scan["config_json"]),
            "versions": f"spectral-workbench {scan['package_version']}, torch "
            f"{scan['torch_version']}",
            "device": scan["device"],
        }
    return found


def _options(config: str) -> str:
    return ", ".join(f"{name} = {value}" for name, value in json.loads(config).items())


def _date(store: Store) -> str:
    """When the newest scan ended or began: the date of the data."""
    (date,) = (
        store.sql("SELECT max(coalesce(ended_at, started_at)) FROM scan").column(0).to_pylist()
    )
    return date or "1970-01-01T00:00:00+00:00"


def _glossary(sections: Sequence[Section]) -> tuple[tuple[str, str], ...]:
    """Definitions of the metrics that the sections use (`column` or `table.column`), by name."""
    found = {}
    for name in {name for section in sections for name in section.metrics}:
        table, _, column = name.rpartition(".")
        definition = metric(column, (table,))
        if definition is not None:
            found[column] = explained(definition)
    return tuple(sorted(found.items()))
