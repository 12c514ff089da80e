"""`analyzer tucker fit --csv`: a functional Tucker model of any table of numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analyzer.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from analyzer.models.funbat import Progress

DEFAULT_RANK = 3
NOTE = (
    "ranks: besides the constant of a full core. rmse: on held-out rows, drawn at random: of "
    "neighbours in one series that is kinder than predicting where nothing was measured. mean: "
    "rmse of predicting the mean. covered: share of held-out values within the 95 % interval."
)


def fit_table(
    file: Path,
    index_columns: Sequence[str],
    value_column: str,
    *,
    ranks: tuple[int, ...],
    kernel: str,
    diagonal: bool,
    center: bool,
    hold_out: float,
    output: Path | None,
    restarts: int,
    seed: int,
    as_json: bool,
    progress: Callable[[Progress], None] | None,
) -> None:
    """Fit, print the error on held-out rows, and save the fit of all rows if asked to."""
    from analyzer.cli.output import emit
    from analyzer.models.funbat import BadInput, Variational, fit_funbat, save_fit

    indexes, values = _columns(file, index_columns, value_column)
    if ranks and len(ranks) not in (1, len(index_columns)):
        raise UsageError(f"{len(ranks)} ranks for {len(index_columns)} indexes")
    held = _held_out(values, hold_out, seed)
    chosen = list(ranks) * (1 if len(ranks) > 1 else len(index_columns))
    if not ranks:
        chosen = [min(DEFAULT_RANK, np.unique(column).size) for column in indexes[~held].T]
        chosen = [min(chosen)] * len(chosen) if diagonal else chosen

    def fit(rows: NDArray[np.bool_]) -> Any:
        return fit_funbat(
            indexes[rows],
            values[rows],
            chosen,
            kernel,
            core="diagonal" if diagonal else "full",
            # what subtracting the mean adds to the rank, a full core takes up
            constant=not diagonal,
            center=center,
            inference=Variational(restarts=restarts),
            seed=seed,
            progress=progress,
        )

    try:
        found = fit(~held)
        row: dict[str, Any] = {"n_obs": found.n_observations, "ranks": str(found.ranks)}
        row["lengthscales"] = ", ".join(f"{length:.4g}" for length in found.lengthscales)
        row["noise"] = float(np.median(found.noise_sd))
        row |= _errors(found, indexes[held], values[held], values[~held]) if held.any() else {}
        row |= {"n_sweeps": found.n_sweeps, "seconds": found.seconds, "seed": seed}
        row["status"] = "; ".join([*found.warnings, *_repeats(indexes, held)]) or "ok"
        if output is not None:
            save_fit(fit(np.ones_like(held)) if held.any() else found, output)
    except BadInput as error:
        raise UsageError(str(error), path=file) from None
    emit([row], title=f"{value_column} of {file.name}", as_json=as_json, as_csv=False, note=NOTE)


def predict_table(
    fit_file: Path, file: Path, index_columns: Sequence[str], *, as_json: bool, as_csv: bool
) -> None:
    """Mean and sd at every row of a table of indexes."""
    from analyzer.cli.output import emit
    from analyzer.models.funbat import BadInput, load_fit

    indexes, _ = _columns(file, index_columns, None)
    try:
        found = load_fit(fit_file).predict(indexes)
    except BadInput as error:
        raise UsageError(str(error), path=file) from None
    rows = [
        dict(zip(index_columns, index.tolist(), strict=True))
        | {"mean": float(mean), "sd": float(sd), "extrapolated": bool(outside)}
        for index, mean, sd, outside in zip(
            indexes, found.mean, found.sd, found.extrapolated, strict=True
        )
    ]
    emit(rows, title=f"Predictions at {file.name}", as_json=as_json, as_csv=as_csv)


def _held_out(values: NDArray[np.float64], share: float, seed: int) -> NDArray[np.bool_]:
    """A share of the rows that have a value."""
    held = np.zeros(len(values), dtype=bool)
    present = np.flatnonzero(~np.isnan(values))
    count = round(share * present.size)
    held[np.random.default_rng(seed).choice(present, count, replace=False)] = True
    return held


def _repeats(indexes: NDArray[np.float64], held: NDArray[np.bool_]) -> list[str]:
    """A warning where held-out rows stand at the indexes of fitted ones."""
    numbers = np.unique(indexes, axis=0, return_inverse=True)[1].ravel()
    count = int(np.isin(numbers[held], numbers[~held]).sum())
    return [f"{count} of {held.sum()} held-out rows repeat indexes of fitted ones"] if count else []


def _errors(
    found: Any, indexes: NDArray[np.float64], values: NDArray[np.float64], kept: NDArray[np.float64]
) -> dict[str, Any]:
    mean, sd = found.predict(indexes)
    wrong = mean - values
    return {
        "n_holdout": values.size,
        "rmse": float(np.sqrt(np.mean(wrong**2))),
        "mean": float(np.sqrt(np.mean((values - np.nanmean(kept)) ** 2))),
        "covered": float(np.mean(np.abs(wrong) <= 1.96 * sd)),
    }


def _columns(
    file: Path, index_columns: Sequence[str], value_column: str | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Indexes (N, K) and values (N,), empty values as NaN. Raises UsageError."""
    import pyarrow as pa
    from pyarrow import csv

    try:
        table = csv.read_csv(file)
    except (OSError, pa.ArrowInvalid) as error:
        line = str(error).splitlines()[0]
        raise UsageError(f"cannot be read as CSV: {line}", path=file) from None
    wanted = [*index_columns, *([value_column] if value_column else [])]
    missing = [name for name in wanted if name not in table.column_names]
    if missing:
        raise UsageError(
            f"no column {', '.join(missing)}", path=file,
            hint=f"it has {', '.join(table.column_names)}",
        )  # fmt: skip
    found = []
    for name in wanted:
        try:
            column = table.column(name).cast(pa.float64())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise UsageError(f"the column {name} is not numeric", path=file) from None
        found.append(column.to_numpy())
    indexes = np.column_stack(found[: len(index_columns)])
    return indexes, found[-1] if value_column else np.empty(0)
