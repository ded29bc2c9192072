"""The direction of a probe: it steers towards the positive class, separates as the probe does, and has a file."""

import numpy as np
import pytest
import torch

from mechsteer.directions import from_probe, load_direction, save_direction, separation
from mechsteer.errors import DataError, NonFiniteError
from mechsteer.models.sites import Site
from mechsteer.probes import LinearProbe


def fitted():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 6))
    return LinearProbe().fit(X, X[:, 2] > 0.5), X


def test_it_points_to_the_positive_class_and_its_threshold_decides(tmp_path):
    probe, X = fitted()
    direction = from_probe(probe, site=2, name="large")
    positive = probe.predict(X)
    found = separation(direction, torch.from_numpy(X[positive]).float(), torch.from_numpy(X[~positive]).float())
    assert found["auroc"] == found["accuracy"] == 1.0
    assert int(direction.vector.argmax()) == 2
    assert (direction.name, direction.site) == ("large", Site(2))
    again = load_direction(save_direction(direction, tmp_path / "d.safetensors"))
    assert torch.equal(again.vector, direction.vector)
    assert again.provenance["classes"] == ["False", "True"]


def test_refusals():
    with pytest.raises(DataError, match="LinearProbe has no direction_"):
        from_probe(LinearProbe())
    probe, _ = fitted()
    probe.direction_ = probe.direction_ * np.nan
    with pytest.raises(NonFiniteError, match="holds NaN"):
        from_probe(probe)
