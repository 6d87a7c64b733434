"""Averages of estimators of the KL over a vocabulary: by hand, by autograd and by drawing."""

import math

import pytest
import torch

from polopt.math.divergence import ESTIMATORS, k1, k2, k3, kl_divergence_of_logs
from polopt.math.estimation import (
    PLACES,
    average,
    average_gradient,
    in_dead_zone,
    in_loss,
    in_reward,
    log_ratios,
)


def logs(*p: float) -> torch.Tensor:
    return torch.tensor([p], dtype=torch.float64).log()


def of(log_p, log_q, token, estimator) -> list[float]:
    """In one state: k at the token, its average, whether that is dead, what q gives to such."""
    d = log_ratios(log_p, log_q)
    dead, taken = in_dead_zone(estimator, d)[0], estimator(d)[0, token]
    mean, missed = average(log_p.exp(), estimator(d)), log_q.exp()[0, dead].sum()
    return [float(x) for x in (taken, mean, dead[token], missed)]


HALF, QUARTER = logs(1 / 2, 1 / 2), logs(1 / 4, 3 / 4)
SECOND = 1


@pytest.fixture(scope="module")
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    """Two distributions in five states, over seven tokens."""
    draw = torch.Generator().manual_seed(0)
    z = 2 * torch.randn(2, 5, 7, dtype=torch.float64, generator=draw)
    log_p, log_q = z.log_softmax(-1)
    return log_p, log_q


def test_values_by_hand():
    """p = (½, ½), q = (¼, ¾); d = (ln 2, ln ⅔) = (0.693147, -0.405465); the second is drawn.

    KL = ½ ln 4/3 = 0.143841; E[k2] = ¼ (0.480453 + 0.164402) = 0.161214; at the token
    k2 = 0.082201 and k3 = 3/2 - 1 - 0.405465 = 0.094535.
    """
    wanted = {"k1": (-0.405465, 0.143841), "k2": (0.082201, 0.161214), "k3": (0.094535, 0.143841)}
    for name, values in wanted.items():
        assert of(HALF, QUARTER, SECOND, ESTIMATORS[name]) == pytest.approx(
            [*values, 0.0, 0.0], abs=1e-6
        )


@pytest.mark.parametrize(
    ("name", "place", "first"),
    [
        ("k1", "reward", 0.274653),  # p (d - KL) = ½ (0.693147 - 0.143841): the exact one
        ("k1", "loss", 0.0),
        ("k1", "corrected loss", 0.274653),
        ("k2", "reward", 0.039506),  # ½ (0.240227 - 0.161214)
        ("k2", "loss", 0.274653),
        ("k2", "corrected loss", 0.314159),  # the sum of the two
        ("k3", "reward", 0.024653),  # ½ (0.193147 - 0.143841)
        ("k3", "loss", 0.25),  # p - q
        ("k3", "corrected loss", 0.274653),
    ],
)
def test_gradients_by_hand(name: str, place: str, first: float):
    weight = PLACES[place](ESTIMATORS[name])
    d = log_ratios(HALF, QUARTER)
    found = average_gradient(HALF.exp(), weight(d))
    assert found[0].tolist() == pytest.approx([first, -first], abs=1e-6)


def test_identities_of_any_two_distributions(pair):
    log_p, log_q = pair
    d, p, q = log_ratios(log_p, log_q), log_p.exp(), log_q.exp()
    z = log_p.clone().requires_grad_()
    kl = kl_divergence_of_logs(z.log_softmax(-1), log_q)
    (exact,) = torch.autograd.grad(kl.sum(), z)
    forward = p - q  # of KL(q‖p)

    def gradient(estimator, place):
        return average_gradient(log_p.exp(), PLACES[place](estimator)(d))

    assert torch.allclose(average(p, k1(d)), kl)
    assert torch.allclose(average(p, k3(d)), kl)
    assert (average(p, k2(d)) - kl).abs().min() > 1e-3
    for estimator, place in ((k1, "reward"), (k2, "loss"), (k1, "corrected loss")):
        assert torch.allclose(gradient(estimator, place), exact)
    assert torch.allclose(gradient(k3, "corrected loss"), exact)
    assert gradient(k1, "loss").abs().max() < 1e-15
    assert torch.allclose(gradient(k3, "loss"), forward)
    assert torch.allclose(gradient(k3, "reward"), exact - forward)


def test_the_average_gradient_is_that_of_the_loss_of_drawn_tokens(pair):
    """The slow twin: autograd of the shipped estimator at drawn tokens, mean over many of them."""
    log_p, log_q = (each[:1] for each in pair)
    tokens = torch.multinomial(
        log_p[0].exp(), 40_000, replacement=True, generator=torch.Generator().manual_seed(1)
    )
    d = log_ratios(log_p, log_q)
    for name, estimator in ESTIMATORS.items():
        values = estimator(d)[0, tokens]
        error = values.std() / math.sqrt(len(tokens))
        assert abs(values.mean() - average(log_p.exp(), estimator(d))[0]) < 4 * error, name
        z = log_p[0].clone().requires_grad_()
        logp = z.log_softmax(-1)[tokens]
        k = estimator(logp - log_q[0, tokens])
        for place, loss in (("loss", k), ("reward", k.detach() * logp)):
            (drawn,) = torch.autograd.grad(loss.mean(), z, retain_graph=True)
            exact = average_gradient(log_p.exp(), PLACES[place](estimator)(d))[0]
            assert torch.allclose(drawn, exact, atol=0.02), (name, place)


def test_a_dead_zone_by_hand():
    """At d = ±20 the clamp of k3 still moves, beyond it stands; k1 and k2 have none."""
    d = torch.tensor([-20.1, -20.0, 0.0, 20.0, 20.1], dtype=torch.float64)
    assert in_dead_zone(k3, d).tolist() == [1, 0, 0, 0, 1]
    assert in_dead_zone(k1, d).tolist() == in_dead_zone(k2, d).tolist() == [0] * 5
    beyond = torch.tensor([20.1, 25.0], dtype=torch.float64)
    assert k3(beyond)[0] == k3(beyond)[1] and in_loss(k3)(beyond).tolist() == [0.0, 0.0]


def test_what_a_clamp_hides_of_the_reference():
    """p gives e⁻³⁰ to a token that q gives ½: k3 takes it for e⁻³⁰ e²⁰ = e⁻¹⁰ where it is ½.

    Without the clamp E[k3] is KL; with it, it is KL - ½ + e⁻¹⁰, and nothing pulls to that token.
    """
    low = math.exp(-30)
    log_p, log_q = logs(1 - low, low), HALF
    kl = float(kl_divergence_of_logs(log_p, log_q))
    assert kl == pytest.approx(math.log(2), abs=1e-9)
    taken, mean, dead, missed = of(log_p, log_q, 0, k3)
    assert taken == pytest.approx(math.exp(-math.log(2)) - 1 + math.log(2))
    assert mean == pytest.approx(kl - 0.5 + math.exp(-10), abs=1e-9)
    assert (dead, missed) == (0.0, 0.5)
    assert of(log_p, log_q, SECOND, k3)[2] == 1.0
    pull = average_gradient(log_p.exp(), in_loss(k3)(log_ratios(log_p, log_q)))
    assert pull.abs().max() < 1e-9


def test_a_token_that_neither_can_draw_changes_nothing(pair):
    closed = torch.full((5, 1), -torch.inf, dtype=torch.float64)
    more = [torch.cat([each, closed], dim=-1) for each in pair]
    d, wider = log_ratios(*pair), log_ratios(*more)
    p, q = (logs[0].exp() for logs in (pair, more))
    for estimator in ESTIMATORS.values():
        assert torch.allclose(average(q, estimator(wider)), average(p, estimator(d)))
        for place in PLACES.values():
            own, found = average_gradient(p, place(estimator)(d)), place(estimator)(wider)
            assert torch.allclose(average_gradient(q, found)[:, :-1], own)
            assert average_gradient(q, found)[:, -1].tolist() == [0.0] * 5


def test_a_token_that_only_the_reference_could_draw_has_no_weight():
    log_p, log_q = logs(1.0, 0.0), HALF
    d = log_ratios(log_p, log_q)
    assert d.tolist() == [[pytest.approx(math.log(2)), 0.0]]
    assert average(log_p.exp(), k1(d)).item() == pytest.approx(math.log(2))
    assert average_gradient(log_p.exp(), in_reward(k1)(d)).tolist() == [[0.0, 0.0]]


def test_an_infinite_divergence_is_infinite_and_no_nan():
    log_q = logs(1.0, 0.0)
    taken, mean, *_ = of(HALF, log_q, SECOND, k1)
    assert taken == mean == math.inf
    _, mean, dead, missed = of(HALF, log_q, SECOND, k3)
    assert math.isfinite(mean) and (dead, missed) == (1.0, 0.0)


def test_no_probability_times_infinity_is_nothing():
    p, x = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, math.inf]])
    assert average(p, x).tolist() == [2.0]
    assert average_gradient(p, x).tolist() == [[0.0, 0.0]]


def test_no_states_at_all():
    empty = torch.zeros(0, 3, dtype=torch.float64)
    assert average(empty, k3(empty)).shape == (0,)
    assert average_gradient(empty, in_loss(k3)(empty)).shape == (0, 3)
    assert in_dead_zone(k3, empty).shape == (0, 3)


def test_weights_are_known_where_nothing_is_differentiated():
    with torch.no_grad():
        d = torch.tensor([0.5], dtype=torch.float64)
        assert in_loss(k2)(d).tolist() == [0.5]
        assert not in_loss(k2)(d).requires_grad
