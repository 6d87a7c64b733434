"""The assembly against a slow twin in plain Python loops, over the whole grammar of ``objective``.

The twin is written from the formulas, one number at a time; its gradient is a central difference.
"""

import math
import random

import pytest
import torch

from polopt.diagnose.conformance.objective import objective

NAN = float("nan")


def batch_of(seed, hostile=True):
    """A batch with gaps, an empty row, an unscorable row and a group of one."""
    rng = random.Random(seed)
    b, t = 8, 6
    mask = [[int(rng.random() < 0.75) for _ in range(t)] for _ in range(b)]
    scores = [rng.choice([0.0, 1.0, 0.5, -0.8, 2.0]) for _ in range(b)]
    group = [4, 1, 4, 1, 4, 9, 9, 7]
    if hostile:
        mask[5] = [0] * t  # leaves its partner, row 6, alone
        scores[2] = NAN
    else:
        group[7] = 9
        for row in mask:
            row[0] = 1
    base = [[rng.uniform(-2.0, -0.1) for _ in range(t)] for _ in range(b)]

    def near(spread):
        return [
            [base[i][j] + rng.gauss(0, spread) if mask[i][j] else NAN for j in range(t)]
            for i in range(b)
        ]

    return {
        "scores": scores,
        "mask": mask,
        "group": group,
        "logp": near(0.3),
        "logp_old": near(0.3),
        "logp_ref": near(0.3),
        "logp_rollout": near(0.3),
        "values": near(0.2),
        "last_values": [rng.random() for _ in range(b)],
        "greedy_scores": [rng.random() for _ in range(b)],
    }


class Twin:
    """Everything about one batch and configuration, by loops."""

    def __init__(self, batch, config):
        self.x, self.c = batch, config
        b, self.t = len(batch["mask"]), len(batch["mask"][0])
        self.cols = {i: [j for j in range(self.t) if batch["mask"][i][j]] for i in range(b)}
        self.rows = [i for i in range(b) if self.cols[i] and not math.isnan(batch["scores"][i])]
        self.scored = list(self.rows)
        self.credit()

    def mates(self, i, rows):
        return [j for j in rows if self.x["group"][j] == self.x["group"][i]]

    def credit(self):
        reward = self.rewards()
        total = {i: sum(reward[i].values()) for i in self.rows}
        psi, self.targets = self.returns(reward, total)
        kind = self.c.get("baseline", {}).get("kind", "none")
        constant = self.c.get("baseline", {}).get("value", 0.0)
        adv = {}
        for i in self.rows:
            mates = self.mates(i, self.rows)
            others = [j for j in mates if j != i]
            weight = {j: len(self.cols[j]) for j in mates}
            rest = sum(total[j] for j in others) / len(others) if others else 0.0
            b = {
                "none": 0.0,
                "const": constant,
                "ema": constant,
                "group_mean": sum(total[j] for j in mates) / len(mates),
                "loo": rest,
                "length_weighted": sum(weight[j] * total[j] for j in mates) / sum(weight.values()),
                "greedy": self.x["greedy_scores"][i],
                "value": None,
            }[kind]
            adv[i] = {
                j: psi[i][j] - (self.x["values"][i][j] if b is None else b) for j in self.cols[i]
            }
        norm = self.c.get("norm", {"kind": "none"})
        per_group = norm["kind"] in ("group_std", "group_mean", "batch_std")
        if kind in ("group_mean", "loo", "length_weighted") or per_group:
            self.rows = [i for i in self.rows if len(self.mates(i, self.rows)) > 1]
        self.adv = self.normalise(adv, total, norm)

    def rewards(self):
        c = self.c.get("reward", {})
        out = {}
        for i in self.rows:
            n, last, s = len(self.cols[i]), self.cols[i][-1], self.x["scores"][i]
            if "clip" in c:
                s = min(max(s, c["clip"][0]), c["clip"][1])
            r = dict.fromkeys(self.cols[i], 0.0)
            if "spread" in c:
                gamma, mode = c["spread"]
                shares = [gamma ** (n - 1 - k) if mode != "uniform" else 1.0 for k in range(n)]
                scale = 1.0 if mode == "return" else sum(shares)
                for j, share in zip(self.cols[i], shares, strict=True):
                    r[j] += s * share / scale
            else:
                r[last] += s
            if "overlong" in c:
                l_max, cache, *factor = c["overlong"]
                penalty = 0.0 if n <= l_max - cache else max(-1.0, (l_max - cache - n) / cache)
                r[last] += penalty * (factor[0] if factor else 1.0)
            if "kl_beta" in c:
                for j in self.cols[i]:
                    d = self.x["logp_old"][i][j] - self.x["logp_ref"][i][j]
                    r[j] -= c["kl_beta"] * self.k(c.get("kl_est", "k1"), d)
            out[i] = r
        return out

    @staticmethod
    def k(name, d):
        return {"k1": d, "k2": d * d / 2, "k3": math.exp(-d) - 1 + d}[name]

    def returns(self, reward, total):
        c = self.c["returns"]
        gamma, lam = c.get("gamma", 1.0), c.get("lam", 1.0)
        psi, targets = {}, {}
        for i in self.rows:
            carry, following = 0.0, self.x["last_values"][i]
            psi[i], targets[i] = {}, {}
            for j in reversed(self.cols[i]):
                v = self.x["values"][i][j]
                if c["kind"] == "gae":
                    carry = reward[i][j] + gamma * following - v + gamma * lam * carry
                    following = v
                else:
                    carry = reward[i][j] + gamma * carry
                psi[i][j] = total[i] if c["kind"] == "outcome" else carry
                targets[i][j] = psi[i][j] + (v if c["kind"] == "gae" else 0.0)
        return psi, targets

    @staticmethod
    def spread(numbers, ddof):
        n = len(numbers)
        mean = sum(numbers) / n
        return mean, sum((x - mean) ** 2 for x in numbers) / (n - ddof) if n > ddof else 0.0

    def normalise(self, adv, total, norm):
        kind, ddof = norm["kind"], norm.get("ddof", 1)
        if kind == "none":
            return {i: adv[i] for i in self.rows}
        if kind == "batch_z":
            cells = [adv[i][j] for i in self.rows for j in self.cols[i]]
            if not cells:
                return {}
            mean, var = self.spread(cells, ddof)
            eps = norm.get("eps", 1e-8)
            std = {
                "std_plus": math.sqrt(var) + eps,
                "var_plus": math.sqrt(var + eps),
                "var_clamp": math.sqrt(max(var, eps)),
            }[norm.get("eps_mode", "var_plus")]
            return {i: {j: (adv[i][j] - mean) / std for j in self.cols[i]} for i in self.rows}
        eps, out = norm.get("eps", 1e-6), {}
        for i in self.rows:
            mine = [total[j] for j in self.mates(i, self.scored)]
            mean, var = self.spread(mine, ddof)
            if max(mine) == min(mine):
                var = 0.0
            if kind == "batch_std":
                var = self.spread([total[j] for j in self.scored], ddof)[1]
            if kind == "group_mean":
                divisor = mean + eps if mean > 0 else math.inf
            else:
                divisor = math.sqrt(var) + eps
            out[i] = {j: adv[i][j] / divisor for j in self.cols[i]}
        return out

    def kept(self):
        """M2PO's mask: cells in the loss."""
        cells = [(i, j) for i in self.rows for j in self.cols[i]]
        if "m2po_tau" not in self.c:
            return cells
        square = {(i, j): (self.x["logp"][i][j] - self.x["logp_old"][i][j]) for i, j in cells}
        drift = [z for z in cells if self.adv[z[0]][z[1]] * square[z] > 0]
        drift.sort(key=lambda z: square[z] ** 2)
        while drift and sum(square[z] ** 2 for z in drift) / len(drift) > self.c["m2po_tau"]:
            cells.remove(drift.pop())
        return cells

    def loss(self, logp):
        """Loss at log-probs; what the formulas hold constant is taken at those of the batch."""
        cells = self.kept()
        cols = {i: [j for k, j in cells if k == i] for i in self.rows}
        rows = [i for i in self.rows if cols[i]]
        weight = self.weights(rows, cols)
        total = 0.0
        for i in rows:
            for j in cols[i]:
                ell = self.surrogate(i, j, cols[i], logp) * self.correction(i, j)
                if "kl_loss" in self.c:
                    kl = self.c["kl_loss"]
                    k = self.k(kl["est"], logp[i][j] - self.x["logp_ref"][i][j])
                    if kl.get("is_correct"):
                        k *= math.exp(logp[i][j] - self.x["logp_old"][i][j])
                    ell += kl["beta"] * k
                total += weight[i] * ell
        return total

    def weights(self, rows, cols):
        n = {i: len(cols[i]) for i in rows}
        groups = {self.x["group"][i] for i in rows}
        mode, const = self.c["agg"]["mode"], self.c["agg"].get("const", 1)
        return {
            i: {
                "token_mean": 1 / sum(n.values()),
                "seq_mean_token_mean": 1 / (len(rows) * n[i]),
                "seq_mean_token_sum": 1 / len(rows),
                "seq_mean_token_sum_const": 1 / (len(rows) * const),
                "prompt_mean": 1 / (len(groups) * sum(n[j] for j in self.mates(i, rows))),
            }[mode]
            for i in rows
        }

    def surrogate(self, i, j, cols, logp):
        c = self.c["surrogate"]
        kind, level = c["kind"], c.get("level", "token")
        logs = {k: logp[i][k] - self.x["logp_old"][i][k] for k in cols}
        row_mean = sum(self.adv[i][k] for k in cols) / len(cols)
        sequence = level != "token" or kind == "opmd"
        a = row_mean if sequence and kind != "pg" else self.adv[i][j]
        lr = {
            "token": logs[j],
            "seq_mean": sum(logs.values()) / len(cols),
            "seq_sum": sum(logs.values()),
        }[level]
        rho = math.exp(lr)
        if kind == "pg":
            return -a * logp[i][j]
        if kind == "is":
            return -a * rho
        if kind == "clip":
            ell = max(-a * rho, -a * min(max(rho, 1 - c["low"]), 1 + c["high"]))
            return min(ell, -c["dual"] * a) if c.get("dual") and a < 0 else ell
        if kind == "cispo":
            fixed = math.exp(self.x["logp"][i][j] - self.x["logp_old"][i][j])
            return -min(max(fixed, c.get("w_min", 0.0)), c["w_max"]) * a * logp[i][j]
        if kind == "sapo":
            tau = c["tau_pos"] if a > 0 else c["tau_neg"]
            return -a * 4 / tau / (1 + math.exp(-tau * (rho - 1)))
        total = sum(logs.values())  # opmd: the loss of the row, shared by its tokens
        return -a * logp[i][j] + c["tau"] / 2 * total**2 / len(cols)

    def correction(self, i, j):
        c = self.c.get("correction")
        if c is None:
            return 1.0
        logs = [self.x["logp_old"][i][k] - self.x["logp_rollout"][i][k] for k in self.cols[i]]
        low, high, u = (
            c.get("c_min", 0.0),
            c["c_max"],
            math.exp(self.x["logp_old"][i][j] - self.x["logp_rollout"][i][j]),
        )
        product, mean = math.exp(sum(logs)), math.exp(sum(logs) / len(logs))
        return {
            "token_tis": min(max(u, low), high),
            "token_mask": u * (low <= u <= high),
            "seq_tis": min(max(product, low), high),
            "seq_mask": product * (low <= product <= high),
            "seq_geo_mask": u * (low <= mean <= high),
        }[c["mode"]]

    def gradient(self, h=1e-6):
        out = [[0.0] * self.t for _ in self.x["mask"]]
        for i in self.rows:
            for j in self.cols[i]:
                ends = []
                for sign in (1, -1):
                    logp = [list(row) for row in self.x["logp"]]
                    logp[i][j] += sign * h
                    ends.append(self.loss(logp))
                out[i][j] = (ends[0] - ends[1]) / (2 * h)
        return out


REWARDS = [
    {},
    {"kl_beta": 0.1},
    {"kl_beta": 0.2, "kl_est": "k3", "clip": [-0.5, 0.7]},
    {"overlong": [5, 3], "spread": [0.9, "normalized"]},
    {"overlong": [5, 3, 0.5], "spread": [0.9, "return"], "kl_beta": 0.05, "kl_est": "k2"},
    {"spread": [0.5, "uniform"]},
]
RETURNS = [
    {"kind": "outcome"},
    {"kind": "rtg", "gamma": 0.9},
    {"kind": "gae", "gamma": 0.95, "lam": 0.8},
]
BASELINES = [
    {"kind": kind, "value": 0.4}
    for kind in ("none", "loo", "group_mean", "length_weighted", "const", "ema", "greedy")
]
NORMS = [
    {"kind": "none"},
    {"kind": "group_std"},
    {"kind": "group_std", "ddof": 0, "eps": 1e-2},
    {"kind": "group_mean"},
    {"kind": "batch_std", "eps": 1e-4},
    {"kind": "batch_z"},
    {"kind": "batch_z", "ddof": 0, "eps": 1e-3, "eps_mode": "var_clamp"},
    {"kind": "batch_z", "eps_mode": "std_plus"},
]
SURROGATES = [
    {"kind": "pg"},
    {"kind": "is"},
    {"kind": "is", "level": "seq_sum"},
    {"kind": "clip", "low": 0.2, "high": 0.28},
    {"kind": "clip", "low": 0.1, "high": 0.1, "dual": 1.3},
    {"kind": "clip", "low": 0.01, "high": 0.02, "level": "seq_mean"},
    {"kind": "clip", "low": 0.2, "high": 0.2, "level": "seq_sum", "dual": 3.0},
    {"kind": "cispo", "w_min": 0.8, "w_max": 1.2},
    {"kind": "sapo", "tau_pos": 1.0, "tau_neg": 1.05},
    {"kind": "opmd", "tau": 0.1},
]
CORRECTIONS = [
    None,
    {"mode": "token_tis", "c_max": 1.1},
    {"mode": "token_tis", "c_max": 1.3, "c_min": 0.9},
    {"mode": "token_mask", "c_max": 1.3, "c_min": 0.8},
    {"mode": "seq_tis", "c_max": 1.2},
    {"mode": "seq_mask", "c_max": 2.0, "c_min": 0.5},
    {"mode": "seq_geo_mask", "c_max": 1.2, "c_min": 0.8},
]
KL = [None, *({"est": e, "beta": 0.1, "is_correct": i} for e in ("k1", "k2", "k3") for i in (0, 1))]
AGGREGATIONS = [
    {"mode": "token_mean"},
    {"mode": "seq_mean_token_mean"},
    {"mode": "seq_mean_token_sum"},
    {"mode": "seq_mean_token_sum_const", "const": 7},
    {"mode": "prompt_mean"},
]


def config_of(seed):
    rng = random.Random(1000 + seed)
    config = {
        "reward": rng.choice(REWARDS),
        "returns": rng.choice(RETURNS),
        "baseline": rng.choice(BASELINES),
        "norm": rng.choice(NORMS),
        "surrogate": rng.choice(SURROGATES),
        "agg": rng.choice(AGGREGATIONS),
        "correction": rng.choice(CORRECTIONS),
        "kl_loss": rng.choice(KL),
        "m2po_tau": rng.choice([None, None, 0.02]),
    }
    if config["norm"]["kind"] in ("group_std", "group_mean", "batch_std"):
        # As recipes have it: what is scaled is what a whole response earned less its group's mean.
        config |= {"returns": {"kind": "outcome"}, "baseline": {"kind": "group_mean"}}
    return {k: v for k, v in config.items() if v is not None}


def tensors(batch):
    out = {k: torch.tensor(v, dtype=torch.float64) for k, v in batch.items()}
    return out | {"mask": out["mask"].bool(), "group": out["group"].long()}


def compare(batch, config):
    got, twin = objective(tensors(batch), config), Twin(batch, config)
    cells = set(twin.kept())
    shape = range(len(batch["mask"])), range(len(batch["mask"][0]))
    for name, expected in (("advantages", twin.adv), ("value_targets", twin.targets)):
        grid = [[expected[i][j] if (i, j) in cells else 0.0 for j in shape[1]] for i in shape[0]]
        for i in shape[0]:
            assert got[name][i].tolist() == pytest.approx(grid[i], abs=1e-9), (name, i)
    assert got["valid"].tolist() == [i in twin.rows for i in shape[0]]
    assert got["loss"].item() == pytest.approx(twin.loss(batch["logp"]), abs=1e-9)
    gradient = twin.gradient()
    for i in shape[0]:
        assert got["grad_logp"][i].tolist() == pytest.approx(gradient[i], abs=1e-6), i


@pytest.mark.parametrize("seed", range(80))
def test_random_rows_of_choices(seed):
    compare(batch_of(seed, hostile=seed % 2 == 0), config_of(seed))


BASE = {
    "returns": {"kind": "outcome"},
    "surrogate": {"kind": "clip", "low": 0.2, "high": 0.2},
    "agg": {"mode": "token_mean"},
}


@pytest.mark.parametrize(
    ("slot", "choices"),
    [
        ("reward", REWARDS),
        ("returns", RETURNS),
        ("baseline", [*BASELINES, {"kind": "value"}]),
        ("norm", NORMS),
        ("surrogate", SURROGATES),
        ("correction", CORRECTIONS),
        ("kl_loss", KL),
        ("agg", AGGREGATIONS),
    ],
)
def test_every_choice_of_every_slot(slot, choices):
    for seed, choice in enumerate(choices):
        if choice is not None:
            compare(batch_of(50 + seed), {**BASE, slot: choice})


def test_the_value_baseline_is_in_gae_already():
    batch = tensors(batch_of(3))
    gae = {**BASE, "returns": {"kind": "gae", "lam": 0.9}}
    twice = objective(dict(batch), {**gae, "baseline": {"kind": "value"}})
    once = objective(dict(batch), gae)
    assert torch.equal(twice["advantages"], once["advantages"])


@pytest.mark.parametrize(
    "config",
    [
        {**BASE, "baseline": {"kind": "loo", "valeu": 1}},
        {**BASE, "surrogate": {"kind": "clip", "low": 0.2, "high": 0.2, "hihg": 1}},
        {**BASE, "unknown": {}},
    ],
)
def test_an_unknown_key_is_not_ignored(config):
    with pytest.raises(TypeError, match="unexpected keyword"):
        objective(tensors(batch_of(0)), config)
