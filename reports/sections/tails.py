"""Heavy tails of the spectra, and the rank that each matrix keeps under WeLore."""

from __future__ import annotations

from analyzer.store.reading import Store
from analyzer.views import heat, tails, tails_fit, tails_summary, welore
from analyzer.views.view import View
from reports.document import Column, Equation, Number, Paragraph, Picture, Section, Table
from reports.figures import heat as heat_figures
from reports.figures import tails as figures
from reports.figures import tails_fit as fit_figures
from reports.figures import welore as welore_figures
from reports.numbers import number, text, whole
from reports.scope import Scope
from reports.sections.parts import median, pictures, present

TARGET = 0.5  # effective rank reduction, the scan's own
_COLUMNS = (
    Column("role", "role", text, is_number=False),
    Column("n_matrices", "matrices", whole),
    Column("alpha", "alpha", number),
    Column("alpha_interval", "95 % interval", text),
    Column("ks_d", "D", number),
    Column("n_tail", "n tail", whole),
    Column("null_q", "noise", number),
    Column("num_spikes", "spikes", number),
    Column("stable_rank", "stable rank", number),
    Column("rank_share", "rank kept", number),
    Column("lrc", "LRC", text),
)
_EQUATIONS = (
    Equation(
        "p(lambda) prop lambda^(-alpha), quad lambda = sigma^2 >= x_min",
        r"p(\lambda) \propto \lambda^{-\alpha}, \quad \lambda = \sigma^2 \ge x_{\min}",
        "Tail of the density of eigenvalues λ of WᵀW; x_min minimises the Kolmogorov-Smirnov "
        "distance D.",
    ),
    Equation(
        "(sigma - sigma_min) / (sigma_max - sigma_min) >= kappa",
        r"\frac{\sigma - \sigma_{\min}}{\sigma_{\max} - \sigma_{\min}} \ge \kappa",
        "WeLore keeps the singular values above one threshold κ for the whole checkpoint, chosen "
        "so that half of the total rank goes.",
    ),
)


def section(store: Store, scope: Scope) -> Section | None:
    """None where no spectrum has been fitted."""
    subject = scope.base or (scope.names[0] if scope.names else None)
    if subject is None:
        return None
    roles = tails_summary.by_role(store, subject)
    if roles.is_empty:
        return None
    return Section(
        "tails",
        "Heavy tails and rank",
        findings=_findings(store, scope, subject),
        paragraphs=(
            Paragraph(
                "The exponent alpha is the maximum-likelihood fit above x_min, with a 95 % "
                "interval. A power law is never proved by a fit: `noise` is the share of random "
                "matrices of the same shape whose alpha is smaller, so that values near 0 mean a "
                "tail heavier than noise shows.",
                ("clauset2009", "martin2021", "johnstone2001"),
            ),
            Paragraph(
                "The rank that is kept follows from the shape of each spectrum alone.",
                ("jaiswal2024",),
            ),
        ),
        equations=_EQUATIONS,
        tables=(Table(roles, _COLUMNS, _caption(subject)),),
        pictures=_pictures(store, scope, subject),
        numbers=_numbers(roles),
        metrics=("tail.alpha", "tail.xmin", "ks_d", "null_q", "num_spikes", "rank_kept", "is_lrc"),
    )


def _caption(subject: str) -> str:
    return (
        f"Medians over the matrices of {subject}; the interval is the median of the matrices' own. "
        f"Rank kept: share of the full rank at an effective rank reduction of {TARGET:g}. LRC: "
        "matrices that lose more than half of it."
    )


def _findings(store: Store, scope: Scope, subject: str) -> tuple[str, ...]:
    found = []
    for name in (subject, *scope.focus[:3]):
        rows = tails_summary.by_role(store, name).rows()
        alphas = present([row["alpha"] for row in rows])
        if alphas:
            noise = present([row["null_q"] for row in rows])
            below = sum(q < 0.05 for q in noise)
            found.append(
                f"{name}: median tail exponent {median(alphas)} over {len(alphas)} roles; "
                f"{below} of {len(noise)} roles have tails heavier than 95 % of random matrices."
            )
    return tuple(found)


def _numbers(roles: View) -> tuple[Number, ...]:
    return (Number("medianAlpha", median(roles.column("alpha")), "median alpha over the roles"),)


def _pictures(store: Store, scope: Scope, subject: str) -> tuple[Picture, ...]:
    tuned = next(iter(scope.focus), subject)
    matrix = _strongest(store, subject)
    found = [*pictures(tails.alpha_by_depth(store, tuned), figures.alpha_by_depth, tuned)]
    if matrix is not None:
        found += pictures(
            tails_fit.eigenvalues(store, subject, matrix), fit_figures.tail_fit, subject
        )
    found += pictures(tails.alpha_histogram(store, tuned), figures.alpha_histogram, tuned)
    found += pictures(tails.against_noise(store, subject), heat_figures.heat, subject)
    found += pictures(welore.ranks(store, subject, TARGET), welore_figures.rank_bars, subject)
    fixed = (("kind", "weight"),)
    view = heat.heat(store, subject, "spectrum_info.stable_rank", fixed)
    found += pictures(view, heat_figures.heat, subject)
    return tuple(found)


def _strongest(store: Store, checkpoint: str) -> str | None:
    """The matrix whose tail is the longest: the one a reader can judge best."""
    found = store.sql(
        """
        SELECT m.name FROM tail t JOIN matrix m USING (matrix_id) JOIN checkpoint c
        USING (checkpoint_id) WHERE c.name = ? AND t.kind = 'weight' AND t.status = 'ok'
        AND m.layer IS NOT NULL ORDER BY t.n_tail DESC NULLS LAST, m.name LIMIT 1
        """,
        [checkpoint],
    )
    return found.column(0).to_pylist()[0] if found.num_rows else None
