"""A fit read back predicts the same to the last bit; damaged files are refused in one line."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from analyzer.errors import CorruptFile, UnsupportedFormat, UsageError
from analyzer.models.funbat import Variational, fit_funbat, load_fit, save_fit


@pytest.mark.parametrize(
    "kw",
    [
        {},
        {"core": "diagonal"},
        {"constant": True, "noise_mode": 2, "kernel": ("matern12",) * 2 + ("iid",)},
    ],
    ids=str,
)
def test_round_trip(smooth_data, tmp_path, kw):
    x, _, y = smooth_data
    fit = fit_funbat(x, y, 2, inference=Variational(max_sweeps=4, restarts=2), **kw)
    save_fit(fit, tmp_path / "fit.safetensors")
    back = load_fit(tmp_path / "fit.safetensors")
    far = np.concatenate([x, x + 3.0])
    for name in ("mean", "sd", "sd_function", "extrapolated"):
        assert np.array_equal(getattr(back.predict(far), name), getattr(fit.predict(far), name))
    assert np.array_equal(back.functions(0).sd, fit.functions(0).sd)
    assert np.array_equal(back.core, fit.core) and np.array_equal(back.core_cov, fit.core_cov)
    assert back.elbo_trace == fit.elbo_trace and back.restart_elbos == fit.restart_elbos
    assert back.warnings == fit.warnings and back.seed == fit.seed
    np.testing.assert_array_equal(back.lengthscales, fit.lengthscales)
    assert [p.name for p in tmp_path.iterdir()] == ["fit.safetensors"]


def test_damaged_files(smooth_data, tmp_path):
    x, _, y = smooth_data
    path = tmp_path / "fit.safetensors"
    with pytest.raises(UsageError, match="no such file"):
        load_fit(path)
    save_fit(fit_funbat(x, y, 2, inference=Variational(max_sweeps=2, restarts=1)), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(CorruptFile):
        load_fit(path)
    path.write_bytes(whole.replace(b'"version":"1"', b'"version":"9"'))
    with pytest.raises(UnsupportedFormat, match="version 9"):
        load_fit(path)
    path.write_bytes(whole)
    arrays = load_file(path)
    save_file(arrays, tmp_path / "other.safetensors")
    with pytest.raises(UnsupportedFormat, match="not a functional Tucker fit"):
        load_fit(tmp_path / "other.safetensors")
    path.write_bytes(whole.replace(b'\\"rank\\": 2', b'\\"rank\\": 3'))
    with pytest.raises(CorruptFile, match="has not the shape"):
        load_fit(path)
    with pytest.raises(UsageError, match="cannot be written"):
        save_fit(
            fit_funbat(x, y, 1, inference=Variational(max_sweeps=2, restarts=1)),
            tmp_path / "no" / "fit",
        )
