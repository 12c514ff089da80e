"""Gradients of a bias-free (leaky) ReLU or linear network in GaLore's form A - B W C.

J. Zhao et al., arXiv 2403.03507, Theorem 3.2 and Lemma B.2. One sample x, f_0 = x,
z_l = W_l f_{l-1}, f_l = φ_l(z_l) with φ_l(z) = z for z > 0, slope·z otherwise. Such a network is
reversible: locally f_L = J_l W_l f_{l-1} with the Jacobian J_l = ∂f_L/∂z_l. With G_l = -∂L/∂W_l:

    (a)  L = ½‖y - f_L‖²           G_l = (J'y - J'J W f) f',  f = f_{l-1}
    (b)  L = -log softmax(f_L)_c   G_l ≈ (J'P y - (γ/K) J'P J W f) f',  y = e_c, P = I - 11'/K

(b) holds to second order in f̂ = P f_L for small logits, ‖f̂‖_∞ ≪ √K, with γ = 1/(1 + f̂'f̂/(2K));
the exact gradient is J'(y - softmax(f_L)) f'. The print omits the transpose of the first J. Softmax
and attention layers are not reversible and are outside all of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax

from theory.galore_projection import as_matrix
from theory.verdicts import Conditional, Verdict, at_most

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LayerView:
    """What one layer sees of the sample, and the network's output."""

    weight: Array  # W_l (m, n)
    jacobian: Array  # J_l (K, m)
    activation: Array  # f_{l-1} (n,)
    output: Array  # f_L (K,)


@dataclass(frozen=True, slots=True)
class LinearForm:
    """G = constant - left @ W @ right: the sample's A_i, B_i and C_i in Lemma 3.3."""

    constant: Array  # A (m, n)
    left: Array  # B (m, m), PSD
    right: Array  # C = f f' (n, n), PSD

    def gradient(self, weight: Array) -> Array:
        """-∂L/∂W at W (m, n)."""
        return self.constant - self.left @ weight @ self.right


@dataclass(frozen=True, slots=True)
class LogitGradient:
    """-∂L/∂f_L of the K-way log-softmax loss: exact, and by Lemma B.2."""

    exact: Array  # y - softmax(f) (K,)
    lemma: Conditional[Array]  # P y - γ f̂/K (K,), error O(f̂²/K): an approximation
    gamma: float


def layer_views(
    weights: Sequence[ArrayLike], x: ArrayLike, slopes: Sequence[float]
) -> list[LayerView]:
    """One view a layer for W_1 … W_L, x (n_1,) and each layer's slope: 0 ReLU, 1 linear.

    The slope counts at z = 0 too. Raises ValueError for shapes that do not chain.
    """
    W = [as_matrix(w) for w in weights]
    f = _vector(x, np.size(x))
    if not W or len(W) != len(slopes):
        raise ValueError(f"one slope a layer is needed, got {len(W)} weights, {len(slopes)} slopes")
    inputs: list[Array] = []
    derivatives: list[Array] = []
    for index, (w, slope) in enumerate(zip(W, slopes, strict=True)):
        if f.shape != (w.shape[1],):
            raise ValueError(f"layer {index} has shape {w.shape}, its input {f.shape}")
        z = w @ f
        inputs.append(f)
        derivatives.append(np.where(z > 0.0, 1.0, slope))
        f = derivatives[-1] * z
    J = np.diag(derivatives[-1])
    jacobians = [J]
    for w, derivative in zip(W[:0:-1], derivatives[-2::-1], strict=True):
        J = (J @ w) * derivative
        jacobians.append(J)
    return [LayerView(*parts, f) for parts in zip(W, jacobians[::-1], inputs, strict=True)]


def squared_loss_form(view: LayerView, target: ArrayLike) -> LinearForm:
    """Theorem 3.2(a) for ½‖y - f_L‖², y (K,). Exact."""
    J, f = view.jacobian, view.activation
    y = _vector(target, view.output.size)
    return LinearForm(np.outer(J.T @ y, f), J.T @ J, np.outer(f, f))


def log_softmax_form(view: LayerView, label: int) -> Conditional[LinearForm]:
    """Theorem 3.2(b) for -log softmax(f_L)_label, with γ at the present output.

    An approximation; the verdict compares ‖f̂‖_∞ with √K, and the error falls as its square.
    """
    J, f, K = view.jacobian, view.activation, view.output.size
    gamma, verdict = softmax_gamma(view.output)
    centred = J - J.mean(axis=0)  # P J; P is a projection, so J'P J = (P J)'(P J)
    constant = np.outer(centred.T @ _one_hot(label, K), f)
    return Conditional(
        verdict, LinearForm(constant, gamma / K * (centred.T @ centred), np.outer(f, f))
    )


def log_softmax_gradient(view: LayerView, label: int) -> Array:
    """The exact -∂L/∂W_l = J'(y - softmax(f_L)) f' (m, n)."""
    error = logit_gradient(view.output, label).exact
    return np.outer(view.jacobian.T @ error, view.activation)


def logit_gradient(logits: ArrayLike, label: int) -> LogitGradient:
    """Lemma B.2 next to the exact value. Raises ValueError for a label outside 0..K-1."""
    f = _vector(logits, np.size(logits))
    y = _one_hot(label, f.size)
    gamma, verdict = softmax_gamma(f)
    lemma = y - y.mean() - gamma * (f - f.mean()) / f.size
    return LogitGradient(y - softmax(f), Conditional(verdict, lemma), gamma)


def softmax_gamma(logits: Array) -> tuple[float, Verdict]:
    """γ = 1/(1 + f̂'f̂/(2K)) for logits (K,), and whether ‖f̂‖_∞ ≤ √K, the least that "≪" asks."""
    centred = logits - logits.mean()
    K = logits.size
    largest, limit = float(np.max(np.abs(centred))), float(np.sqrt(K))
    verdict = at_most("largest centred logit <= sqrt(K)", largest, limit)
    return 1.0 / (1.0 + float(centred @ centred) / (2.0 * K)), verdict


def _one_hot(label: int, size: int) -> Array:
    if not 0 <= label < size:
        raise ValueError(f"label must lie in 0..{size - 1}, got {label}")
    y = np.zeros(size)
    y[label] = 1.0
    return y


def _vector(values: ArrayLike, size: int) -> Array:
    v = np.asarray(values, dtype=np.float64)
    if v.shape != (size,) or size == 0 or not np.isfinite(v).all():
        raise ValueError(f"expected a finite vector of length {size}, got shape {v.shape}")
    return v
