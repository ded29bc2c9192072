"""The best of several tries: against simulation and by counting."""

import itertools

import numpy as np
import pytest

from mechsteer.errors import ConfigError, DataError
from mechsteer.evaluation.best_of import best_of, seems_to_help


@pytest.mark.parametrize(("n_items", "changed", "n_tries"), [(50, 0.3, 1), (50, 0.3, 4), (7, 1.0, 2), (500, 0.05, 3)])
def test_it_is_what_simulated_studies_show(n_items, changed, n_tries):
    rng = np.random.default_rng(0)
    m = rng.binomial(n_items, changed, size=(40_000, n_tries))
    gained = rng.binomial(m, 0.5)
    share = (gained > m - gained).any(1).mean()
    assert seems_to_help(n_items, changed, n_tries) == pytest.approx(share, abs=0.012)  # 4 standard errors and more


def test_what_changes_nothing_never_helps():
    assert seems_to_help(100, 0.0, 50) == 0


def test_the_share_of_sets_is_the_count_of_them():
    differences = [0.2, -0.1, 0.0, -0.3, 0.1, -0.2]
    for k in (1, 2, 5, 6):
        sets = [max(each) > 0 for each in itertools.combinations(differences, k)]
        assert best_of(differences, k) == pytest.approx(np.mean(sets))


def test_what_cannot_be_asked_is_refused():
    with pytest.raises(ConfigError, match=r"changed=1\.5"):
        seems_to_help(10, 1.5)
    with pytest.raises(DataError, match="best of 3 tries, 2 differences"):
        best_of([0.1, 0.2], 3)
