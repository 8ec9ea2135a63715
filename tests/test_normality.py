"""The report's statistics have the means and errors it states, and it errs as often as it says."""

import json
import math

import pytest
import torch
from PIL import Image
from scipy import stats
from truth import normal

from sfumato.explore import apply, qq_plot, report


@pytest.fixture(scope="module")
def draws():
    """Reports of 400 true N(0, I) of 3x16x16 at the error rate 5 %."""
    g = torch.Generator().manual_seed(0)
    return [report(torch.randn(3, 16, 16, generator=g), 0.05) for _ in range(400)]


def rejected(latents, alpha=0.01):
    return sum(not report(z, alpha).accepts for z in latents) / len(latents)


def test_accepts_noise_at_the_stated_rate(draws, report):
    rates = {alpha: sum(any(abs(row.z) > limit(alpha, len(r.rows)) for row in r.rows) for r in draws) / 400
             for alpha in (0.05, 0.01)}  # fmt: skip
    report("true N(0, I) rejected at the error rates 5 %, 1 %", *rates.values())
    assert rates[0.05] == sum(not r.accepts for r in draws) / 400
    for alpha, rate in rates.items():  # Bonferroni's bound, three deviations above it
        assert rate <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / 400)
    assert rates[0.05] > 0.01  # and not by never rejecting


def limit(alpha, k):
    return stats.norm.isf(alpha / k / 2)


def test_limit_is_bonferronis(draws):
    assert len(draws[0].rows) == 7 * 4 + 1
    assert draws[0].limit == pytest.approx(limit(0.05, 29))


@pytest.mark.parametrize(
    "name", ["mean", "std", "norm", "kurtosis", "autocorrelation", "slope", "flatness", "channels"]
)
def test_expected_values_and_errors(name, draws, report):
    rows = [row for r in draws for row in r.rows if row.name == name and row.channel is None]
    value, z = (torch.tensor([getattr(row, k) for row in rows]) for k in ("value", "z"))
    expected, error = rows[0].expected, rows[0].error
    report(f"{name}: measured, stated; std measured, stated", value.mean().item(), expected,
           value.std().item(), error)  # fmt: skip
    assert abs(value.mean() - expected) < 3.5 * error / 20
    assert value.std() == pytest.approx(error, rel=0.15)
    assert z.std() == pytest.approx(1, rel=0.15)


def test_per_channel_rows_are_those_of_the_channel(draws):
    x = normal(3, 16, 16)
    own = [row._replace(channel=1) for row in report(x[1:2]).rows]
    assert [row for row in report(x).rows if row.channel == 1] == own


def test_kurtosis_is_judged_as_scipy_does():
    x = normal(2, 32, 32).double()
    row = next(r for r in report(x).rows if r.name == "kurtosis")
    assert row.value == pytest.approx(stats.kurtosis(x.flatten(), fisher=False))
    assert row.z == pytest.approx(stats.kurtosistest(x.flatten()).statistic)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("renormalise", ["false", "true"])
def test_rejects_blurred_noise(sigma, renormalise, report):
    chain = f"blur sigma={sigma} renormalise={renormalise}"
    z, _ = apply(chain, torch.randn(50, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    rate = rejected(z)
    report(f"{chain}: share rejected at the error rate 1 %", rate)
    assert rate == 1


@pytest.mark.parametrize(
    ("what", "spoil"),
    [
        ("mean", lambda z: z + 0.2),
        ("std", lambda z: z * 1.2),
        ("kurtosis", lambda z: z.sign() * (z.abs() + 0.5) / 1.36),
        ("channels", lambda z: (z + 0.5 * z.mean(1, keepdim=True)) / 1.2),
        ("slope", lambda z: apply("blur sigma=0.7 renormalise=true", z)[0]),
    ],
)
def test_names_what_is_wrong(what, spoil):
    z = spoil(torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2)))
    for latent in z:
        assert what in [row.name for row in report(latent).rejecting]


def test_a_constant_latent_is_rejected():
    found = report(torch.zeros(3, 16, 16))
    assert not found.accepts
    assert found.verdict().startswith("not N(0, I): ")


def test_slope_of_a_power_law():
    """Noise of the power |f|^-2 has slope -2; in a wide picture, too."""
    for h, w in ((64, 64), (32, 96)):
        fy, fx = torch.fft.fftfreq(h)[:, None], torch.fft.rfftfreq(w)
        f = (fy**2 + fx**2).sqrt().clamp(min=1 / w)
        x = torch.fft.irfft2(torch.fft.rfft2(normal(3, h, w)) / f, s=(h, w))
        rows = {row.name: row for row in report(x / x.std()).rows if row.channel is None}
        assert rows["slope"].value == pytest.approx(-2, abs=0.25)
        assert rows["flatness"].value < 0.2


def test_text_and_json():
    found = report(normal(3, 16, 16))
    lines = found.text().splitlines()
    assert len(lines) == 31
    assert lines[-1] == found.verdict()
    assert json.loads(json.dumps(found.to_json()))["accepts"] == found.accepts


def test_qq_plot(tmp_path):
    qq_plot(normal(5, 3, 16, 16), tmp_path / "qq.png")
    with Image.open(tmp_path / "qq.png") as image:
        assert image.size == (1200, 600)


@pytest.mark.parametrize(
    ("shape", "alpha", "says"),
    [((16, 16), 0.01, "expected \\(C, H, W\\)"), ((3, 4, 16), 0.01, "8 pixels"),
     ((3, 16, 16), 1.0, "alpha must be in")],
)  # fmt: skip
def test_mistakes(shape, alpha, says):
    with pytest.raises(ValueError, match=says):
        report(torch.zeros(shape), alpha)
