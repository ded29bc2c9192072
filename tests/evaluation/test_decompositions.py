"""The switch and the rest: against the definition written out, and against answers known by hand."""

import numpy as np
import pytest

from mechsteer.errors import ShapeError
from mechsteer.evaluation import Scored, style_share, switch_and_rest
from mechsteer.tasks import Trace


def drawn(n=120, seed=0):
    rng = np.random.default_rng(seed)
    before, after = rng.choice(list("abc"), n, p=[0.5, 0.4, 0.1]), rng.choice(list("abd"), n, p=[0.2, 0.7, 0.1])
    rate = {"a": 0.3, "b": 0.8, "c": 0.5, "d": 0.9}
    right = [rng.random(n) < [rate[c] + shift for c in side] for side, shift in ((before, 0.0), (after, 0.05))]
    return right[0], right[1], before.tolist(), after.tolist()


def written_out(base, treated, before, after, index, reference):
    """Σ over categories, as the module's docstring has it; (switch, rest)."""
    base, treated = base[index].astype(float), treated[index].astype(float)
    before, after = np.array(before)[index], np.array(after)[index]
    mean = (base if reference == "base" else treated).mean()
    switch = rest = 0.0
    for c in sorted({*before, *after}):
        p, q = (before == c).mean(), (after == c).mean()
        r = base[before == c].mean() if (before == c).any() else np.nan
        s = treated[after == c].mean() if (after == c).any() else np.nan
        price = r if reference == "base" else s
        switch += (q - p) * (mean if np.isnan(price) else price)
    rest = treated.mean() - base.mean() - switch
    return switch, rest


@pytest.mark.parametrize("reference", ["base", "treated"])
def test_parts_and_intervals_are_those_of_the_definition(reference):
    base, treated, before, after = drawn()
    result = switch_and_rest(base, treated, before, after, reference=reference, n_boot=300, seed=7)
    n = len(base)
    assert (result.switch.value, result.beyond.value) == pytest.approx(
        written_out(base, treated, before, after, np.arange(n), reference), abs=1e-12
    )
    rng = np.random.default_rng(7)
    draws = np.array(
        [written_out(base, treated, before, after, rng.integers(n, size=n), reference) for _ in range(300)]
    )
    for k, part in enumerate((result.switch, result.beyond)):
        assert (part.low, part.high) == pytest.approx(np.quantile(draws[:, k], [0.025, 0.975]), abs=1e-12)
    assert result.switch.value + result.beyond.value == pytest.approx(treated.mean() - base.mean())
    assert result.categories == ("a", "b", "c", "d")
    assert sum(result.base_shares) == pytest.approx(1)
    assert result.base_scores[0] == pytest.approx(base[np.array(before) == "a"].mean())
    assert np.isnan(result.base_scores[3])


def test_a_mere_switch_and_a_mere_gain():
    before, after = ["hasty"] * 10 + ["careful"] * 10, ["careful"] * 20
    right = np.array([0] * 10 + [1] * 10)
    switch = switch_and_rest(right, np.ones(20), before, after, n_boot=50)
    assert (switch.switch.value, switch.beyond.value) == (0.5, 0.0)
    gain = switch_and_rest(right, np.ones(20), before, before, n_boot=50)
    assert (gain.switch.value, gain.beyond.value) == (0.0, 0.5)


def test_the_references_differ_where_rates_do():
    before, after = ["a"] * 8 + ["b"] * 8, ["a"] * 4 + ["b"] * 12
    base, treated = np.repeat([0, 1, 0, 1], 4), np.ones(16)
    assert switch_and_rest(base, treated, before, after, n_boot=20).switch.value == 0.0
    base[8:] = 1  # a: one half, b: all
    assert switch_and_rest(base, treated, before, after, n_boot=20).switch.value == 0.25 * 0.5
    assert switch_and_rest(base, treated, before, after, reference="treated", n_boot=20).switch.value == 0.0


def test_texts_without_a_style_have_no_share():
    def arm(styles):
        traces = tuple(
            Trace(item_id=str(i), group=str(i), prompt="", text="", correct=True, style=s) for i, s in enumerate(styles)
        )
        return Scored(
            scores=np.ones(len(styles), dtype=bool), groups=tuple(map(str, range(len(styles)))), traces=traces
        )

    assert style_share(arm(["a", "b"]), arm(["a", "a"])).categories == ("a", "b")
    assert style_share(arm([None, None]), arm([None, None])) is None
    assert style_share(arm(["a", None]), arm(["a", "a"])) is None


def test_refusals():
    for args in (([1], [1, 0], ["a"], ["a", "b"]), ([1], [1], ["a"], []), ([], [], [], [])):
        with pytest.raises(ShapeError, match="answer the same items"):
            switch_and_rest(np.array(args[0]), np.array(args[1]), *args[2:])


def test_strata_are_categories_of_their_own():
    base, treated, before, after = drawn(600)
    steps = (np.arange(600) * 7 % 3).tolist()
    apart = [[f"{c}{s}" for c, s in zip(side, steps, strict=True)] for side in (before, after)]
    for reference in ("base", "treated"):
        options = {"reference": reference, "n_boot": 100, "seed": 1}
        together = switch_and_rest(base, treated, before, after, strata=steps, **options)
        one_by_one = switch_and_rest(base, treated, *apart, **options)
        assert together.switch.value == pytest.approx(one_by_one.switch.value)
        assert together.beyond.low == pytest.approx(one_by_one.beyond.low)
        assert together.strata == ("0", "1", "2")


def test_rare_cells_are_merged_with_their_neighbours_and_named():
    """A difficulty that decides on style and score: within strata a switch alone leaves nothing."""
    steps = np.repeat([1, 2, 3, 4], 50)
    before = np.where((steps <= 2) & (np.arange(200) % 50 < 40), "b", "a")
    before[steps == 2] = np.where(np.arange(50) < 5, "b", "a")  # 5 of "b" at 2 steps: with those at 1
    rate = {"a": 0, "b": 1}
    right = np.array([rate[style] for style in before])
    found = switch_and_rest(
        right, np.ones(200), before.tolist(), ["b"] * 200, strata=steps.tolist(), least=20, n_boot=20
    )
    assert "b" in found.merged
    assert found.switch.value == pytest.approx(1 - right.mean())
    assert found.beyond.value == pytest.approx(0.0)
    rare = switch_and_rest(right, right, before.tolist(), ["c"] * 200, strata=steps.tolist(), least=20, n_boot=20)
    assert rare.switch.value == pytest.approx(0.0)  # "c" has no rate under base: the mean stands for it
    assert "c" in rare.merged
