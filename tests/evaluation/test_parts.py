"""Parts of a steering on held-out items: planted scores come back, nulls are told from what matters."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

import mechsteer as ms
from mechsteer.errors import DataError, ShapeError
from mechsteer.evaluation import Arm, Scored, evaluate_parts
from mechsteer.results import from_json, to_json
from mechsteer.tasks import Item
from tests import toys

N = 200
SITE = ms.Site(1, "resid_post")
ITEMS = [Item(id=str(i), prompt="p", answer="1", group=f"g{i // 2}") for i in range(N)]
AXES = torch.linalg.qr(torch.randn(toys.D_MODEL, 12, generator=torch.Generator().manual_seed(0)))[0].T.contiguous()


@dataclass(frozen=True)
class AlongOne:
    """An arm solves as many more items as its vector is long along one axis; scoring knows nothing else."""

    axis: torch.Tensor
    metric: str = "accuracy"
    unit: str = "share"
    asked: list = field(default_factory=list)

    def prompt(self, model, item):
        return [1]

    def score(self, model, arm: Arm, items, *, keep=None, progress=False):
        self.asked.append(arm.name)
        bias = sum((iv.adapter.as_bias(iv.coeff) for iv in arm.steering.interventions), start=torch.zeros(toys.D_MODEL))
        helped = round(100 * float(bias.detach() @ self.axis))
        return Scored(scores=np.arange(N) < 60 + helped, groups=tuple(item.group for item in items))


def outcome(spans, nulls, vector, k=None):
    model, scoring = toys.shared("llama"), AlongOne(AXES[0])
    iv = ms.Steering(ms.Intervention(ms.adapters.Static(vector), SITE))
    base, treated = (scoring.score(model, Arm(name="-", steering=s), ITEMS) for s in (ms.Steering([]), iv))
    return scoring, evaluate_parts(
        model, iv, spans, nulls, scoring, ITEMS, site=SITE, base=base, treated=treated, name="features", k=k
    )


def test_what_carries_the_score_beats_what_does_not():
    vector = AXES[0] + AXES[1] + AXES[2]
    nulls = torch.stack([AXES[[1, 5]], AXES[[2, 6]], AXES[[7, 8]], AXES[[9, 10]]])
    scoring, found = outcome(AXES[[0, 3, 4]], nulls, vector, k=2)
    assert found.whole.value == pytest.approx(0.5)
    assert (found.kept.difference.value, found.removed.difference.value) == pytest.approx((0.5, 0.0))
    assert (found.kept.null.value, found.removed.null.value) == pytest.approx((0.0, 0.5))
    assert found.kept.beyond_null.low > 0.35
    assert found.removed.beyond_null.high < -0.35
    assert found.says_more_than_noise is True
    assert (found.k, found.n_nulls, found.n_items) == (2, 4, N)
    assert "features, 2 kept, null 3" in scoring.asked
    assert from_json(type(found), to_json(found)) == found


def test_a_selection_that_is_as_good_as_any_says_no_more_than_noise():
    nulls = torch.stack([AXES[[0, i]] for i in range(3, 8)])
    _, found = outcome(AXES[[0, 1]], nulls, AXES[0])
    assert found.kept.beyond_null.value == 0
    assert found.says_more_than_noise is False


def test_a_steering_that_does_nothing_has_no_parts():
    nulls = torch.stack([AXES[[0, 1]], AXES[[2, 3]]])
    assert outcome(AXES[[2, 3]], nulls, AXES[5])[1].says_more_than_noise is None


def test_half_of_it_in_every_null_and_a_bootstrap_over_groups():
    """The interval is that of a mean over groups: against its normal approximation."""
    half = (AXES[0] + AXES[11]) / 2**0.5
    _, found = outcome(AXES[[0, 1]], torch.stack([half[None].repeat(1, 1)] * 3), AXES[0])
    gain = np.zeros(N)
    gain[110:160] = 1  # a null keeps half along the axis: 50 of 100 more
    of_groups = gain.reshape(-1, 2).mean(1)
    spread = of_groups.std(ddof=1) / len(of_groups) ** 0.5
    assert found.kept.beyond_null.value == pytest.approx(0.25)
    width = (found.kept.beyond_null.high - found.kept.beyond_null.low) / (2 * 1.96)
    assert width == pytest.approx(spread, rel=0.1)


def test_refusals():
    with pytest.raises(DataError, match="no meaningless bases"):
        outcome(AXES[[0, 1]], torch.zeros(0, 2, toys.D_MODEL), AXES[0])
    model, scoring = toys.shared("llama"), AlongOne(AXES[0])
    iv = ms.Steering(ms.Intervention(ms.adapters.Static(AXES[0]), SITE))
    scored = scoring.score(model, Arm(name="-", steering=iv), ITEMS)
    with pytest.raises(ShapeError, match="score the same items"):
        evaluate_parts(*(model, iv, AXES[:1], [AXES[1:2]], scoring, ITEMS[:9]), site=SITE, base=scored, treated=scored)
