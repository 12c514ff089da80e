"""`analyzer tucker`: functional Tucker fits of a store's spectra, or of any table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from analyzer.errors import UsageError

if TYPE_CHECKING:
    from analyzer.models.funbat import Progress as Sweep
    from analyzer.models.spectral_tensor.observations import RunOfStore
    from analyzer.scanning.tucker.fits import Fitted

_db = click.option(
    "--db", type=click.Path(path_type=Path), help="Store [$ANALYZER_DB, ./analyzer.duckdb]."
)
_json = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
_csv = click.option("--as-csv", "as_csv", is_flag=True, help="CSV on stdout.")
_quiet = click.option("-q", "--quiet", is_flag=True, help="No progress.")

FIT_NOTE = (
    "rmse: of log σ on held-out scans, quantiles below 0.9 (the smallest singular values are "
    "erratic); linear: the same of linear interpolation between the scans that were kept. covered: "
    "share of held-out values within the 95 % interval. Where linear is smaller, interpolate."
)
PLACE_NOTE = (
    "mean ± 1.96 sd is meant to hold 95 in 100 observations of log σ, within the model (arXiv "
    "2311.04829); where extrapolated, intervals are optimistic."
)
SUGGEST_NOTE = (
    "sd: mean standard deviation of log σ there now; reduction: share of the uncertainty at all "
    "candidates that scanning this one would take away, as if it were found as predicted."
)


@click.group()
def tucker() -> None:
    """Functional Bayesian Tucker fits (FunBaT, arXiv 2311.04829)."""


@tucker.command()
@_db
@click.option("--run", "run_name", help="Run or checkpoint [the run of most steps].")
@click.option("--table", type=click.Choice(["spectrum"]), default="spectrum", show_default=True)
@click.option("--kind", default="weight", show_default=True, help="Kind of spectrum.")
@click.option(
    "--modes",
    default="depth,step,role,quantile",
    show_default=True,
    help="By commas, of depth, step, role, matrix, quantile; without role, a fit for each.",
)
@click.option("--role", "roles", multiple=True, help="Only matrices of this role; repeatable.")
@click.option("--ranks", help="One a mode, by commas.")
@click.option("--csv", "table_file", type=click.Path(path_type=Path), help="Any CSV instead.")
@click.option("--index", "index_columns", help="Its index columns, by commas.")
@click.option("--value", "value_column", help="Its column of values.")
@click.option("--kernel", default="matern32", show_default=True, help="Of a CSV's modes.")
@click.option("--diagonal", is_flag=True, help="FunBaT-CP: a diagonal core (of a CSV).")
@click.option(
    "--center/--no-center",
    default=True,
    show_default=True,
    help="Add a constant to a CSV's model, learned from the mean of the values on.",
)
@click.option(
    "--hold-out",
    type=click.FloatRange(0, 0.9),
    default=0.1,
    show_default=True,
    help="Share of a CSV's rows that the error is measured on.",
)
@click.option("-o", "output", type=click.Path(path_type=Path), help="Save the fit of a CSV here.")
@click.option("--restarts", type=click.IntRange(1), default=2, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--force", is_flag=True, help="Fit again what is stored.")
@_json
@_quiet
def fit(
    db: Path | None,
    run_name: str | None,
    table: str,
    kind: str,
    modes: str,
    roles: tuple[str, ...],
    ranks: str | None,
    table_file: Path | None,
    index_columns: str | None,
    value_column: str | None,
    kernel: str,
    diagonal: bool,
    center: bool,
    hold_out: float,
    output: Path | None,
    restarts: int,
    seed: int,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Fit the spectra of a run in the store, or the rows of a CSV file."""
    numbers = _ranks(ranks)
    if table_file is not None:
        from analyzer.cli.tucker_csv import fit_table

        if not index_columns or not value_column:
            raise UsageError("a CSV needs --index a,b,c and --value y")
        with _sweeps(quiet, restarts) as progress:
            fit_table(
                table_file, _split(index_columns), value_column, ranks=numbers, kernel=kernel,
                diagonal=diagonal, center=center, hold_out=hold_out, output=output,
                restarts=restarts, seed=seed, as_json=as_json, progress=progress,
            )  # fmt: skip
        return
    from analyzer.models.spectral_tensor.settings import Settings
    from analyzer.scanning.tucker.fits import fit_run
    from analyzer.scanning.tucker.stored import find_run

    place = _store(db)
    settings = Settings(tuple(_split(modes)), numbers, restarts=restarts, seed=seed)  # type: ignore[arg-type]
    run = find_run(place, run_name)
    each = "role" in settings.modes or "matrix" in settings.modes
    groups = [roles] if each else [(role,) for role in _roles(place, run, kind, roles)]
    computed: list[Fitted] = []
    for group in groups:
        with _sweeps(quiet, 2 * restarts) as progress:
            fitted, now = fit_run(
                place, run, settings, kind=kind, roles=group, force=force, progress=progress
            )
        computed += [fitted] if fitted is not None and now else []
    _print_fits(place, run.name, computed, as_json)


@tucker.command()
@_db
@click.option("--fit", "fit_id", type=int, help="Number of the fit [the last].")
@click.option("--depth", "depths", multiple=True, type=float, help="Block number; repeatable.")
@click.option("--step", "steps", multiple=True, type=float, help="Training step; repeatable.")
@click.option("--role", "roles", multiple=True, help="Only this role; repeatable.")
@click.option("--file", "fit_file", type=click.Path(path_type=Path), help="Saved fit of a CSV.")
@click.option("--csv", "table_file", type=click.Path(path_type=Path), help="CSV of its indexes.")
@click.option("--index", "index_columns", help="Its index columns, by commas.")
@_json
@_csv
def predict(
    db: Path | None,
    fit_id: int | None,
    depths: tuple[float, ...],
    steps: tuple[float, ...],
    roles: tuple[str, ...],
    fit_file: Path | None,
    table_file: Path | None,
    index_columns: str | None,
    as_json: bool,
    as_csv: bool,
) -> None:
    """Spectra at depths and steps that nobody scanned, with intervals; kept in the store."""
    from analyzer.cli.output import emit

    if fit_file is not None:
        from analyzer.cli.tucker_csv import predict_table

        if table_file is None or not index_columns:
            raise UsageError("a saved fit needs --csv FILE and --index a,b,c")
        predict_table(fit_file, table_file, _split(index_columns), as_json=as_json, as_csv=as_csv)
        return
    from dataclasses import asdict

    import numpy as np

    from analyzer.scanning.tucker.fits import load, predict_places
    from analyzer.scanning.tucker.stored import keep_predictions

    place = _store(db)
    row, model, seen = load(place, fit_id)
    rows = predict_places(
        row.fit_id, model, seen, depths or np.unique(seen.depth).tolist(),
        steps or [float(seen.step.max())], roles,
    )  # fmt: skip
    keep_predictions(place, rows)
    shown = [asdict(one) for one in rows]
    title = f"Fit {row.fit_id} of {row.run}"
    emit(shown, title=title, as_json=as_json, as_csv=as_csv, note=PLACE_NOTE)


@tucker.command()
@_db
@click.option("--fit", "fit_id", type=int, help="Number of the fit [the last].")
@_json
@_quiet
def suggest(db: Path | None, fit_id: int | None, as_json: bool, quiet: bool) -> None:
    """Which unscanned checkpoint or layer would reduce uncertainty most."""
    from analyzer.cli.output import emit
    from analyzer.cli.progress import progress_bar
    from analyzer.models.spectral_tensor.suggestion import suggest as rank_candidates
    from analyzer.scanning.pool import Progress
    from analyzer.scanning.tucker.fits import load
    from analyzer.scanning.tucker.stored import known_steps

    place = _store(db)
    row, model, seen = load(place, fit_id)
    with progress_bar(quiet) as report:
        found = rank_candidates(
            model,
            seen,
            known_steps(place, row.run),
            None
            if report is None
            else lambda done, total: report(Progress(done / total, "pretending to scan")),
        )
    rows = [
        {"what": one.what, "value": one.value, "sd": one.sd, "reduction": one.reduction}
        for one in found
    ]
    if not rows:
        raise UsageError(
            f"fit {row.fit_id} leaves no gap", hint="every layer and step between was scanned"
        )
    title = f"What to scan next of {row.run}"
    emit(rows, title=title, as_json=as_json, as_csv=False, note=SUGGEST_NOTE)


def _print_fits(db: Path, run: str, computed: list[Fitted], as_json: bool) -> None:
    from analyzer.cli.output import emit
    from analyzer.store.reading import connect

    if not computed:
        click.echo(f"nothing new: the fits of {run} are stored in {db}", err=True)
    numbers = [fitted.fit_id for fitted in computed]
    rows = (
        connect(db)
        .sql(
            "SELECT * FROM tucker_fit WHERE run = ? AND (? OR fit_id IN (SELECT unnest(?)))"
            " ORDER BY fit_id",
            [run, not numbers, numbers],
        )
        .to_pylist()
    )
    emit(
        rows, title=f"Fits of {run}", as_json=as_json, as_csv=False, note=FIT_NOTE,
        for_people=[_shown(row) for row in rows],
    )  # fmt: skip


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "fit": row["fit_id"],
        "modes": row["modes"],
        "ranks": row["ranks"],
        "n_obs": row["n_obs"],
        "explained": row["explained"],
        "rmse": row["rmse"],
        "linear": row["baseline_rmse"],
        "covered": row["coverage"],
        "held out": row["holdout"],
        "seconds": row["seconds"],
        "status": row["status"],
        "at bound": row["bound_hit"] or None,
    }


def _roles(db: Path, run: RunOfStore, kind: str, chosen: tuple[str, ...]) -> tuple[str, ...]:
    """Every role of the run, one a stack."""
    from analyzer.models.spectral_tensor.observations import observe_spectra
    from analyzer.store.connection import reader

    with reader(db) as connection:
        return observe_spectra(connection, run, kind=kind, roles=chosen).roles


def _store(db: Path | None) -> Path:
    from analyzer.store.reading import connect

    return connect(db).db


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _ranks(text: str | None) -> tuple[int, ...]:
    if text is None:
        return ()
    try:
        return tuple(int(part) for part in _split(text))
    except ValueError:
        raise UsageError(f"ranks {text}", hint="whole numbers by commas, such as 2,2,1,3") from None


@contextmanager
def _sweeps(quiet: bool, restarts: int) -> Iterator[Callable[[Sweep], None] | None]:
    """Sweeps of every restart as a bar; they may end before the last."""
    from analyzer.cli.progress import progress_bar
    from analyzer.scanning.pool import Progress

    most = 200
    with progress_bar(quiet) as report:
        if report is None:
            yield None
            return

        def show(sweep: Sweep) -> None:
            done = sweep.restart + min(sweep.sweep / most, 1.0)
            report(Progress(min(done / restarts, 1.0), f"sweep {sweep.sweep}"))

        yield show
