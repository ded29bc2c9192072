"""`mechsteer topology`, `probes`, `along` and `watch` on one small run: what they write, say and leave out."""

import json

import numpy as np
import pytest
from study_toys import stage_result

from mechsteer import cli
from mechsteer.directions import load_direction
from mechsteer.results import from_plain
from mechsteer.studies.probing import step_spans
from mechsteer.studies.results import ProbeResult

SMALL = [
    *("traces.n_problems=30", "traces.n_dev=12", "traces.n_samples=3", "max_new_tokens=120"),
    *("layers=[1,2]", "adapter.epochs=1", "adapter.coeffs=[1.0]", "probe.n_boot=50", "probe.n_splits=3"),
    *("topology.n_points=8", "topology.n_permutations=49", "topology.n_steered=6", "topology.n_compared=20"),
    *("topology.shares=[0.5,1.0]", "probe.n_steered=6", "probe.n_random=1", "probe.coeffs=[0.1]"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes") / "run"
    for command in ("topology", "probes", "along"):
        assert cli.main([command, f"out={folder}", *SMALL]) == 0
    return folder


def page_of(run):
    return (run / "report.md").read_text(encoding="utf-8").replace("\\", "")


def test_topology_compares_kinds_layers_shares_and_pairs(run):
    result = stage_result(run, "topology")
    assert result["shapes"]["kinds"] == ["right", "wrong"]
    assert len(result["shapes"]["gaps"]) == 8
    assert all(gap["by_kind"]["null"]["n_undefined"] == 0 for gap in result["shapes"]["gaps"])
    assert [layer["site"] for layer in result["layers"]["layers"]] == ["resid_post@1", "resid_post@2"]
    assert [each["share"] for each in result["early"]["shares"]] == [0.5, 1.0]
    steered = result["steered"]
    assert steered["kinds"] == ["before", "after"]
    assert steered["n_used"][0] == steered["n_used"][1] == steered["n_problems"]
    assert [each["name"] for each in result["maps"]] == ["a right trace", "a wrong trace"]
    assert all(each["tokens"] for each in (*result["maps"], *result["steered_maps"]))
    page = page_of(run)
    for title in ("Diagrams of right and wrong", "Topology over layers", "How early", "Diagrams before and after"):
        assert f"## {title}" in page


def test_probes_are_swept_and_steps_named(run):
    result = stage_result(run, "probes")
    places = [(cell["site"], cell["pooling"]) for cell in result["sweep"]["cells"]]
    assert places == [(f"resid_post@{layer}", how) for layer in (1, 2) for how in ("last", "mean", "max")]
    assert result["sweep"]["text"] is not None
    assert [each["name"] for each in result["steps"]["classes"]][:2] == ["step 1", "step 2"]
    assert result["steps"]["text_accuracy"] is not None
    assert "## Probes over layers and poolings" in page_of(run)
    assert "## Which reasoning step is under way" in page_of(run)


def test_the_direction_of_the_probe_is_a_file(run):
    direction = load_direction(run / "probe.safetensors")
    kept = from_plain(ProbeResult, stage_result(run, "probe"))
    assert direction.provenance["method"] == "probe"
    assert direction.provenance["threshold"] == pytest.approx(-kept.intercept)
    np.testing.assert_allclose(direction.vector.numpy(), kept.direction, rtol=1e-5)
    swept = stage_result(run, "along")["sweep"]
    assert swept["norm"] == pytest.approx(stage_result(run, "along")["norm"], rel=1e-5)
    assert len(swept["random"]) == 1
    assert "## Steering along the probe's direction" in page_of(run)


def test_watch_tells_each_token_with_its_score(run, capsys):
    assert cli.main(["watch", f"out={run}", 'watch.text="Question: Tom has 3 apples. Answer:"']) == 0
    said = capsys.readouterr()
    scores = [line for line in said.err.splitlines() if line[:1] in "+-" and "  '" in line]
    assert len(scores) > 3
    assert "nan" not in said.err
    page = (run / "watch.html").read_text(encoding="utf-8")
    assert "while the model writes" in page
    assert "Tom" in page
    assert said.out.startswith("watch: ")
    assert json.loads((run / "config.json").read_text())["settings"].get("watch") is None


def test_a_marker_that_some_texts_lack(run, tmp_path, capsys):
    assert cli.main(["probes", f"out={run}", 'probe.marker=" The answer"']) == 0
    capsys.readouterr()
    result = stage_result(run, "probes")
    poolings = {cell["pooling"] for cell in result["sweep"]["cells"]}
    assert poolings == {"last", "mean", "max", "marker"}
    assert cli.main(["probes", f"out={run}", 'probe.separator="~"', 'probe.marker="~"']) == 0
    result = stage_result(run, "probes")
    assert result["n_without_marker"] == 90
    assert "no trace has a verified answer" in result["no_sweep"]
    assert "no text holds the separator '~'" in result["no_steps"]
    assert "No probes: " in page_of(run)


def test_steps_are_named_by_the_operations_that_problems_tell(run, capsys):
    again = ["probe.marker=null", "probe.separator=."]
    assert cli.main(["probes", f"out={run}", "probe.step_names=operation", *again]) == 0
    result = stage_result(run, "probes")
    names = [each["name"] for each in result["steps"]["classes"]]
    assert set(names) == {"addition", "subtraction", "comparison", "multiplication"}
    assert "## Which operation is under way" in page_of(run)
    capsys.readouterr()


def test_steps_end_with_their_separator():
    assert step_spans(["a", ".", "b"], ".") == [(0, 2)]
    assert step_spans(["a"], ".") == []
