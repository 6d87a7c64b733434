"""A copy of weights that follows them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from polopt.types import Advantages, Experience
from polopt.update import Lagged

MASK = torch.ones(1, 1, dtype=torch.bool)
BATCH = Experience(MASK, torch.zeros(1).long(), torch.zeros(1))
CREDITED = Advantages(torch.zeros(1, 1), MASK, MASK[:, 0])


def pair() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return {"a": torch.tensor([0.0, 8.0])}, {"a": torch.tensor([4.0, 0.0])}


def followed(every: int, rate: float, batches: int) -> list[list[float]]:
    """The copy after each batch."""
    copy, source = pair()
    lagged, found = Lagged("reference", copy, source, every=every, rate=rate), []
    for step in range(batches):
        assert lagged.update(BATCH, CREDITED, step) == {}
        found.append(copy["a"].tolist())
    return found


def test_it_becomes_what_it_follows_after_every_kth_batch() -> None:
    assert followed(2, 1.0, 3) == [[0.0, 8.0], [4.0, 0.0], [4.0, 0.0]]


def test_it_goes_a_share_of_the_way() -> None:
    """A quarter of 4 and -8, then a quarter of what is left."""
    assert followed(1, 0.25, 2) == [[1.0, 6.0], [1.75, 4.5]]


def test_the_batches_before_a_resume_are_counted() -> None:
    """Step 1 is the second batch of the stage, whoever saw the first."""
    copy, source = pair()
    Lagged("reference", copy, source, every=2, rate=1.0).update(BATCH, CREDITED, 1)
    assert copy["a"].equal(source["a"])


def test_it_keeps_no_gradient_and_no_alias() -> None:
    copy, source = pair()
    source["a"].requires_grad_()
    Lagged("reference", copy, source, every=1, rate=1.0).update(BATCH, CREDITED, 0)
    assert not copy["a"].requires_grad
    with torch.no_grad():
        source["a"] += 1
    assert copy["a"].tolist() == [4.0, 0.0]


def test_the_checkpoint_holds_the_copy(tmp_path: Path) -> None:
    (copy, source), (other, _) = pair(), pair()
    lagged = Lagged("reference", copy, source, every=1, rate=0.3)
    lagged.update(BATCH, CREDITED, 0)
    again = Lagged("reference", other, source, every=1, rate=0.3)
    again.load(tmp_path, lagged.save(tmp_path))
    assert other["a"].equal(copy["a"])
