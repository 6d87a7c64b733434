"""On a CUDA device: the same pipeline, and the sampler agrees with the trainer."""

from pathlib import Path

import pytest
import torch

import polopt
from polopt.models import load
from polopt.roles import Actor, Computing
from polopt.rollout.engines import LocalEngine, Request, answered
from polopt.rollout.groups import experience
from polopt.types import Batch, Prompt, Sampling

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
SMOKE = Path(__file__).parents[2] / "recipes" / "smoke.toml"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_pipeline_runs(tmp_path: Path, dtype: str) -> None:
    flags = {"run.directory": str(tmp_path / "run"), "run.device": "cuda", "model.dtype": dtype}
    run = polopt.train(SMOKE, flags=flags)
    assert run.summary["steps"] == 42


@pytest.mark.parametrize(("autocast", "tolerance"), [(False, 1e-4), (True, 0.05)])
def test_sampled_log_probs_are_those_of_the_trainer(autocast: bool, tolerance: float) -> None:
    language_model = load("builtin:small", seed=1)
    language_model.model.to("cuda")
    tokens = tuple(language_model.tokenizer("3+8-9=")["input_ids"])
    engine = LocalEngine(language_model, autocast=autocast)
    asked = [Request(0, Prompt(0, "3+8-9=", tokens), 16, Sampling(max_new_tokens=32), 1)]
    batch = experience(
        Batch(tuple(answered(engine, asked)), taken_at=0), pad_id=0, device=torch.device("cuda")
    )
    assert batch.tokens is not None and batch.logp_rollout is not None
    trained = Actor(language_model, Computing(autocast=autocast)).log_probs(batch.tokens)
    difference = (trained - batch.logp_rollout)[batch.mask].abs().max()
    assert difference < tolerance
