"""DataLoaders of trajectories: every prompt once, no group on both sides, memory and store alike."""

import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.errors import DataError, ShapeError
from mechsteer.probes import trajectories

GROUPS = [f"p{i // 3}" for i in range(30)]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    model = toys.shared("llama")
    prompts = toys.prompts(*[3 + i % 7 for i in range(30)])
    options = {"labels": [i % 2 == 0 for i in range(30)], "prompt_ids": list(range(30)), "progress": False}
    store = ms.capture(model, prompts, [1], path=tmp_path_factory.mktemp("store") / "s", shard_size=40, **options)
    return ms.capture(model, prompts, [1], **options)[1], store[1]


def seen(loader):
    return {name: part for batch in loader for name, part in zip(batch.prompt_ids, batch.groups, strict=True)}


def test_every_prompt_comes_once_and_no_group_is_on_both_sides(both):
    for acts in both:
        loaders = trajectories(acts, GROUPS, splits={"train": 0.6, "dev": 0.2, "test": 0.2}, batch_size=4, seed=1)
        parts = {name: seen(loader) for name, loader in loaders.items()}
        assert sorted(i for part in parts.values() for i in part) == list(range(30))
        assert [len(part) for part in parts.values()] == [18, 6, 6]
        groups = [set(part.values()) for part in parts.values()]
        assert not groups[0] & groups[1]
        assert not groups[0] & groups[2]
        assert not groups[1] & groups[2]


def test_batches_are_the_trajectories_padded(both):
    memory, stored = both
    for acts in both:
        for batch in trajectories(acts, GROUPS, batch_size=5)["train"]:
            for i, name in enumerate(batch.prompt_ids):
                points = batch.values[i][batch.mask[i]]
                torch.testing.assert_close(points, memory.row(name).float(), rtol=1e-5, atol=1e-5)
                assert not batch.values[i][~batch.mask[i]].any()
                assert batch.labels[i] == (name % 2 == 0)
    assert stored.labels == memory.labels


def test_the_seed_draws_splits_and_order(both):
    first, again, other = (trajectories(both[0], GROUPS, seed=seed) for seed in (0, 0, 5))
    assert list(seen(first["train"])) == list(seen(again["train"]))
    assert set(seen(first["test"]).values()) != set(seen(other["test"]).values())
    assert list(seen(first["train"])) != list(seen(first["train"]))  # another epoch
    assert list(seen(first["test"])) == sorted(seen(first["test"]))


def test_named_groups(both):
    loaders = trajectories(both[0], GROUPS, splits={"test": ["p1", "p4"], "train": 1.0})
    assert set(seen(loaders["test"]).values()) == {"p1", "p4"}
    assert len(seen(loaders["train"])) == 24
    with pytest.raises(DataError, match="group 'p1' stands in the splits 'a' and 'b'"):
        trajectories(both[0], GROUPS, splits={"a": ["p1"], "b": ["p1", "p2"]})
    with pytest.raises(DataError, match="names the group 'p99'"):
        trajectories(both[0], GROUPS, splits={"a": ["p99"]})


def test_refusals(both):
    with pytest.raises(ShapeError, match="29 groups for 30 prompts"):
        trajectories(both[0], GROUPS[1:])
    with pytest.raises(DataError, match="together they are at most 1"):
        trajectories(both[0], GROUPS, splits={"train": 0.9, "test": 0.2})
    with pytest.raises(DataError, match="the split 'test' has no prompt"):
        trajectories(both[0], GROUPS, splits={"train": 0.99, "test": 0.01})
    with pytest.raises(DataError, match="holds no trajectories of one site"):
        trajectories([torch.zeros(3, 2)], ["a"])
    only_bos = ms.capture(toys.shared("llama"), [[256], [256, 5]], [1], progress=False)[1]
    with pytest.raises(DataError, match="has no analysed token"):
        list(trajectories(only_bos, ["a", "b"], splits={"all": 1.0})["all"])
