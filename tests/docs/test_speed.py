"""benchmarks/vs_trl.py, roofline.py and gpu.py: their arithmetic, gates, tables and commands."""

import itertools
import json
import random
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fenced import ROOT

sys.path.insert(0, str(ROOT / "docs"))
sys.path.insert(0, str(ROOT / "benchmarks"))

import roofline
import speed
import vs_trl
import vs_trl_gates
import vs_trl_one
import vs_trl_task
from vs_trl_task import SHAPES, Work

import gpu

TINY = SHAPES["tiny"]
RAGGED = Work(TINY, prompts=3, prompt_tokens=6, new_tokens=12, group=4, mean=6)
FIXED = Work(TINY, prompts=2, prompt_tokens=6, new_tokens=5, group=4)


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """The tables of the page, from results in a directory of their own."""
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    monkeypatch.setattr(speed, "ROOT", tmp_path)
    return speed.TABLES


def wrote(tmp_path: Path, name: str, result: object) -> None:
    file = tmp_path / "benchmarks" / "results" / f"{name}.json"
    file.write_text(json.dumps(result), encoding="utf-8")


# the work


def test_a_shape_has_as_many_weights_as_its_model() -> None:
    # attention: 32 x 32 + 2 (32 x 16) + 32 x 32 = 3,072; mlp: 3 (32 x 64) = 6,144; two layers
    assert TINY.backbone == 2 * (3072 + 6144)
    assert TINY.output == 128 * 32
    for name, millions in (("0.46M", 0.459), ("4.2M", 4.194)):
        assert (SHAPES[name].backbone + SHAPES[name].output) / 1e6 == pytest.approx(
            millions, abs=1e-3
        )


def test_responses_are_as_long_on_average_as_is_asked() -> None:
    # h = 1/2, at most two tokens: half of them end after the first; 1 + 1/2
    assert vs_trl_task.hazard(1.5, 2) == pytest.approx(0.5)
    ragged = vs_trl.ROWS["ragged"].work
    drawn = [*itertools.islice(vs_trl_task.lengths(ragged, random.Random(0)), 20_000)]
    assert statistics.fmean(drawn) == pytest.approx(33, abs=0.7)  # three standard errors
    assert max(drawn) == 128
    assert {*itertools.islice(vs_trl_task.lengths(FIXED, random.Random(0)), 9)} == {5}


def test_the_reward_is_the_share_of_low_tokens() -> None:
    assert vs_trl_task.reward([[0, 63, 64, 127], [1], [99], []], 128) == [0.5, 1.0, 0.0, 0.0]


def test_both_libraries_read_the_same_tokens(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    vs_trl_task.write(tmp_path, RAGGED, count=4)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    row = json.loads((tmp_path / "prompts.jsonl").read_text().splitlines()[0])
    ids = tokenizer(row["prompt"])["input_ids"]
    assert ids == [ord(one) - vs_trl_task.FIRST for one in row["prompt"]]
    assert tokenizer.decode(ids) == row["prompt"]
    ends = json.loads((tmp_path / "model" / "generation_config.json").read_text())["eos_token_id"]
    assert len(ends) == RAGGED.ends == round(128 * vs_trl_task.hazard(6, 12))


# the statistics


def test_a_ratio_is_that_of_seconds_for_a_real_token() -> None:
    theirs = [{"seconds": [6.0, 6.0], "cpu": [3.0, 3.0], "tokens": [300, 100]}]
    ours = [{"seconds": [2.0, 2.0], "cpu": [2.0, 2.0], "tokens": [100, 100]}]
    found = vs_trl.compared(theirs, ours)
    assert found["seconds"]["median"] == 1.5  # (12 / 400) / (4 / 200)
    assert found["cpu"]["median"] == 0.75
    given = [{"seconds": [6.0], "cpu": [1.0], "tokens": [0]}]  # responses are given: of a step
    assert vs_trl.cost(given[0], "seconds") == 6.0


def test_the_interval_is_that_of_the_median_over_repetitions() -> None:
    assert vs_trl.interval([1.5]) == (1.5, 1.5)
    # Of two, the median of a draw is 1, 2 or their mean, with odds 1 : 1 : 2.
    assert vs_trl.interval([1.0, 2.0]) == (1.0, 2.0)
    # Five or more of nine draws are 9 with a probability of 0.030: within 95 %, not within 90 %.
    assert vs_trl.interval([1.0] * 7 + [9.0] * 2) == (1.0, 9.0)
    assert vs_trl.interval([1.0] * 8 + [9.0]) == (1.0, 1.0)


def test_seconds_of_the_update_are_those_after_the_reward() -> None:
    one = {
        "seconds": [5.0, 3.0],
        "rollout": [1.0, 1.0],
        "cpu": [4.0, 3.0],
        "rollout_cpu": [1.0, 1.0],
    }
    one |= {"tokens": [10, 20], "peak": 700.4, "before": 200.0}
    found = vs_trl.summed_up([one, {**one, "peak": 900.0}])
    assert (found["seconds"], found["rollout"], found["update"]) == (4.0, 1.0, 3.0)
    assert (found["fastest"], found["tokens"], found["peak_mib"]) == (3.0, 15.0, 900)


# the floor


def test_the_floor_is_what_no_implementation_can_leave_out() -> None:
    # Two prompts of 6, eight responses of 5: T = 40 tokens, 12 of prompts, once a group.
    attended = 8 * (5 * 6 + 5 * 6 / 2)  # 360
    found = roofline.flops(FIXED, tokens=40, attended=attended)
    pairs = 360 + 2 * (6 * 7 / 2)  # and those of prompts
    forward = 2 * 18_432 * 52 + 2 * 4_096 * 40 + 4 * 2 * (2 * 16) * pairs
    assert found == {"rollout": forward, "update": 3 * forward}


def test_the_floor_of_the_fixed_row() -> None:
    work = vs_trl.ROWS["fixed"].work
    attended = 64 * (64 * 32 + 64 * 65 / 2)
    found = roofline.flops(work, 4096, attended)
    # 6 x 3.146 M x 4,352 + 6 x 1.049 M x 4,096 + 12 x 4 x 256 x 268,416, in GFLOP
    assert found["update"] / 1e9 == pytest.approx(82.1 + 25.8 + 3.3, abs=0.1)


def test_the_products_are_all_weights() -> None:
    for shape in SHAPES.values():
        size = sum(inputs * outputs for inputs, outputs in roofline.products(shape))
        assert size == shape.backbone + shape.output


# the gates


class Uniform(torch.nn.Module):
    """log π = log(w / Σ w): one weight a token, whatever came before."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(vocabulary))
        self.generation_config = type("Config", (), {"eos_token_id": [1, 3]})

    def forward(self, input_ids: torch.Tensor) -> Any:
        logits = self.w.expand(*input_ids.shape, -1)
        return type("Output", (), {"logits": logits})


def test_the_dense_gradient_by_hand() -> None:
    pair = [
        vs_trl_gates.Response([5], [0, 2], 1.0),
        vs_trl_gates.Response([5], [2], 0.0),
    ]
    work = Work(SHAPES["tiny"], 1, 1, 2, group=2, mean=2)  # nothing is forbidden
    found = vs_trl_gates.dense_gradient(Uniform(4), pair, work)["w"]
    # A = ±0.5 / (σ + 1e-6), σ = √½; ∇ log π(y) = e_y - 1/4; the quarters cancel:
    # -A/2 (e_0 + e_2)/2 + A/2 e_2
    a = 0.5 / (0.5**0.5 + 1e-6)
    assert found.tolist() == pytest.approx([-a / 4, 0, a / 4, 0], abs=1e-6)


def test_ends_have_no_probability_before_the_shortest_response() -> None:
    work = Work(SHAPES["tiny"], 1, 1, 2, group=2)  # all are 2 long, 1 and 3 end
    one = vs_trl_gates.Response([5], [0, 2], 1.0)
    found = vs_trl_gates.plain_logp(Uniform(4), one, work)
    assert found.exp().tolist() == pytest.approx([0.5, 0.5])


def test_a_gradient_that_lacks_a_weight_is_infinitely_far() -> None:
    g = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([0.0])}
    near = {"a": torch.tensor([3.0, 4.5]), "b": torch.tensor([0.0])}
    assert vs_trl_gates.distance(near, g) == pytest.approx(0.1)
    assert vs_trl_gates.distance({"a": g["a"]}, g) == float("inf")


def test_what_fails_is_told() -> None:
    assert vs_trl_gates.told({"gradient": 9e-6, "logp": 9e-5}) == []
    (one, two) = vs_trl_gates.told({"gradient": 1e-4, "logp": float("nan")})
    assert one == "gradient: 0.0001 from a plain float32 pass; < 1e-05 is wanted"
    assert two.startswith("logp: nan")
    assert vs_trl.learning_failures({"polopt": [0.8, 0.85], "trl": [0.82, 0.84]}) == []
    assert "above 0.7" in vs_trl.learning_failures({"polopt": [0.8], "trl": [0.6]})[0]
    assert "apart" in vs_trl.learning_failures({"polopt": [0.99, 0.99], "trl": [0.8, 0.81]})[0]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("work", [FIXED, RAGGED], ids=["fixed", "ragged"])
def test_a_step_of_polopt_passes_the_gates(work: Work, tmp_path: Path) -> None:
    vs_trl_task.write(tmp_path, work, count=64)
    asked = {"work": work.as_json(), "directory": str(tmp_path), "method": "grpo", "steps": 1}
    asked |= {"seed": 3, "learning_rate": 1e-6, "device": "cpu", "threads": 1}
    found = vs_trl_gates.gates(asked)
    assert vs_trl_gates.told(found) == []
    responses, gradient = vs_trl_gates.first_step(asked)
    assert len(responses) == work.rows == found["responses"]
    assert 0.0 in vs_trl_gates.advantages(responses)  # the first group earns nothing
    wrong = {name: 1.0001 * g for name, g in gradient.items()}
    model = vs_trl_gates.language_model(asked).model
    dense = vs_trl_gates.dense_gradient(model, responses, work)
    assert vs_trl_gates.distance(wrong, dense) > vs_trl_gates.GRADIENT


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("method", ["grpo", "sft", "dpo", "reward_model"])
def test_a_training_of_polopt_is_measured(method: str, tmp_path: Path) -> None:
    vs_trl_task.write(tmp_path, RAGGED, count=64)
    asked = {"work": RAGGED.as_json(), "directory": str(tmp_path), "method": method, "steps": 2}
    asked |= {"seed": 3, "learning_rate": 1e-6, "device": "cpu", "threads": 1}
    found = vs_trl_one.ours(asked)
    assert len(found["seconds"]) == 2
    assert all(whole > 0 for whole in found["seconds"])
    if method == "grpo":
        pairs = zip(found["rollout"], found["seconds"], strict=True)
        assert all(0 < part < whole for part, whole in pairs)
        assert all(12 <= tokens <= 144 for tokens in found["tokens"])  # 12 responses
        assert all(0 < reward < 1 for reward in found["rewards"])


# the page


def test_a_page_without_results_says_so(tables: dict[str, Any]) -> None:
    assert "Not measured on a GPU" in tables["gpu"](ROOT, "")
    for name, argument in (("vs_trl", "grpo"), ("roofline", ""), ("measured_memory", "")):
        assert tables[name](ROOT, argument) == "Not measured yet."


def test_the_tables_show_the_results(tables: dict[str, Any], tmp_path: Path) -> None:
    arm = {"seconds": 2.0, "rollout": 0.5, "update": 1.5, "peak_mib": 1234}
    ratio = {"median": 1.75, "interval": [1.7, 1.8], "least": 1.7}
    one = {"row": "fixed", "method": "grpo", "goal": 1.8, "threads": 1, "repetitions": 5}
    one |= {"variants": {"polopt": "bf16", "trl": "fp32"}}
    one |= {"arms": dict.fromkeys(("polopt", "tuned", "best", "default"), arm)}
    both = {"seconds": ratio, "cpu": ratio}
    one |= {"ratios": dict.fromkeys(("tuned", "best", "default"), both)}
    one |= {"instructions": ["avx2"], "gflops": [80.0, 84.0], "date": "2026-01-01"}
    one |= {"versions": {"trl": "1.16.0"}}
    wrote(tmp_path, "vs_trl", {"learning": {}, "rows": [one, {**one, "row": "P=16", "goal": None}]})
    text = tables["vs_trl"](ROOT, "grpo")
    took = "2.00 (0.50 + 1.50)"
    seconds = f"| `fixed` | {took} | {took}, `bf16` | {took}, `fp32` | {took} |"
    assert f"{seconds} 1.75 (1.70 to 1.80) | ≥ 1.8 |" in text
    assert "P=16" not in text
    assert "Not measured" not in text
    axes = tables["vs_trl"](ROOT, "axes")
    measured, _, absent = axes.partition("Not measured: ")
    assert "`P=16`" in measured and "P=16" not in absent
    assert {f"`{name}`" for name in vs_trl.AXES} - {"`P=16`"} == {*absent.rstrip(".").split(", ")}
    stage = {"gflop": 111.2, "gflops": 84.0, "floor": 1.324, "cpu": 2.0, "share": 0.662}
    wrote(tmp_path, "roofline", [{**one, "stages": {"update": stage}}])
    assert "| `fixed` | update | 111.2 | 84 | 1.32 | 2.00 | 66% |" in tables["roofline"](ROOT, "")
    arms = [
        {"library": "polopt", "variant": "", "work": "64 x (256 + 1024)", "failed": "no memory"}
    ]
    about = {"date": "2026-01-01", "device": "a card", "versions": {}, "arms": arms}
    wrote(tmp_path, "gpu", about)
    assert "failed: no memory" in tables["gpu"](ROOT, "")


# the commands


@pytest.mark.parametrize(
    ("module", "words", "told"),
    [
        (vs_trl, "--rows fixt", "fixt unknown; there are fixed, small"),
        (vs_trl, "--variants fp8", "--variants: fp8 unknown; there are default, fp32"),
        (roofline, "--rows small", "--rows: small unknown; there are fixed, prompt_heavy, ragged"),
        (gpu, "--device cpu", "--device cpu: with --tiny only"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    module: Any,
    words: str,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["it", *words.split()])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 2
    assert told in capsys.readouterr().err.splitlines()[-1]


def test_without_a_gpu_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no CUDA device is here"):
        gpu.main()


def test_a_gate_that_fails_ends_without_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reached = {"polopt": [0.9], "trl": [0.9]}
    monkeypatch.setattr(vs_trl, "learning", lambda _: reached)
    monkeypatch.setattr(vs_trl, "measured", lambda name, _: {"row": name, "failures": ["too far"]})
    monkeypatch.setattr(sys, "argv", ["vs_trl.py", "--json"])
    with pytest.raises(SystemExit) as ended:
        vs_trl.main()
    assert ended.value.code == 1
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "gate: too far\n")


def test_an_error_in_a_process_is_told(tmp_path: Path) -> None:
    case = vs_trl.Case("grpo", RAGGED)
    bench = vs_trl.Bench(case, tmp_path, vs_trl.QUICK)
    assert bench.ask("polopt", 1, limit=0.01) == {}
    done = subprocess.run(
        [sys.executable, "benchmarks/vs_trl_one.py"],
        cwd=ROOT,
        input="{}",
        capture_output=True,
        text=True,
        check=True,
    )
    assert "KeyError" in json.loads(done.stdout)["error"]
