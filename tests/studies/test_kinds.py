"""Studies of steerings of any kind: arms and controls, kinds from outside the package, files of one's own, seeds."""

import json
import shutil

import extras
import pytest
import torch
import toy_adapters
from study_toys import TEXTS, desk_of, prompts_file, stage_result

import mechsteer as ms
from mechsteer import cli
from mechsteer.studies.evaluate import all_arms
from mechsteer.studies.kept import Kept
from mechsteer.studies.places import places
from mechsteer.studies.problems import Problems


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A study of one trained vector on free texts."""
    extras.require_sae_lens()
    folder = tmp_path_factory.mktemp("texts")
    data = prompts_file(folder / "texts.json")
    assert cli.main(["study", f"out={folder / 'run'}", f"data={data}", *TEXTS]) == 0
    return folder / "run"


def copied(run, folder):
    shutil.copytree(run, folder)
    return folder


def evaluation(folder):
    return stage_result(folder, "evaluate")["evaluation"]


def compared(folder, treated, base="base"):
    (found,) = [c for c in evaluation(folder)["comparisons"] if (c["treated"], c["base"]) == (treated, base)]
    return found["difference"]["value"]


def test_free_texts_are_scored_by_log_odds(texts):
    assert evaluation(texts)["metric"] == "log_odds"
    assert compared(texts, "adapter") > 0
    assert compared(texts, "no-op hook") == 0
    assert "no trace has a verified answer" in stage_result(texts, "probe")["dropped"]


def test_the_report_names_what_it_contrasts(texts):
    """Both continuations are in title, answer and warning; the title names no path."""
    page = (texts / "report.md").read_text().replace("\N{NO-BREAK SPACE}", " ").replace("\\", "")
    settings = json.loads((texts / "config.json").read_text())["settings"]
    positive, negative = f'"{settings["positive"]}"', f'"{settings["negative"]}"'
    assert page.startswith("# mechsteer study: pocket on texts\n")
    assert f"move the model from {negative} towards {positive}?" in page
    assert f"the log-odds of {positive} against {negative} rise" in page
    assert f"trained on {positive} behind" in page
    assert "KL from the model as it is" in page
    assert str(texts.parent) not in page[: page.index("## How to reproduce")]


def vector_of(arm):
    (iv,) = arm.steering.flat() if isinstance(arm.steering, ms.Steering) else [arm.steering]
    return iv.adapter.as_bias(iv.coeff).detach()


def test_controls_are_what_they_are_called(texts):
    with desk_of(texts, "evaluate") as (desk, results):
        kept, problems = Kept(desk), Problems(desk, "log_odds")
        steerings = kept.steerings(results["train"])
        arms = {
            arm.name: arm for arm in all_arms(desk, kept, problems, results["capture"], results["train"], steerings)
        }
    assert (arms["base"].steering, arms["base"].prefix) == ((), "")
    assert [arm.role for arm in arms.values()] == ["base", "treated", "no_op", "control", "random", "random"]
    steered = vector_of(arms["adapter"])
    assert float(steered.norm()) > 0
    others = [vector_of(arms[name]) for name in ("mean difference", "random 1", "random 2")]
    assert [float(v.norm()) for v in others] == pytest.approx(3 * [float(steered.norm())])
    cosines = torch.nn.functional.cosine_similarity
    assert all(abs(float(cosines(v, steered, dim=0))) < 0.5 for v in others[1:])
    assert abs(float(cosines(others[1], others[2], dim=0))) < 0.5


def test_a_kind_from_outside_with_readings(texts, tmp_path, capsys):
    out = copied(texts, tmp_path / "run")
    options = ["adapter.kind=toy_gated_gru", "adapter.args={d_hidden:3}", "adapter.seeds=2", "adapter.epochs=2"]
    assert cli.main(["study", f"out={out}", *options]) == 0
    told = capsys.readouterr().err
    assert "train runs again: adapter.kind, adapter.args, adapter.seeds, adapter.epochs changed" in told
    assert "traces ..." not in told
    assert "sae ..." not in told  # it reads at the same site
    assert [arm["name"] for arm in evaluation(out)["arms"]][:4] == ["base", "adapter", "adapter, seed 1", "no-op hook"]
    assert stage_result(out, "evaluate")["seeds"]["n_items"] == 20
    first, second = (ms.load_steering(out / name, ms.load_model("pocket")) for name in FILES)
    assert isinstance(first.interventions[0].adapter, toy_adapters.GatedGru)
    assert first.interventions[0].adapter.cell.hidden_size == 3
    assert not torch.equal(*(s.interventions[0].adapter.out.weight for s in (first, second)))
    assert {reading["name"] for reading in stage_result(out, "where")["readings"]} == {"delta_norm", "gate", "hidden"}
    page = (out / "report.html").read_text()
    assert "gate at resid_post@3" in page
    assert "Over adapter seeds" in page
    assert cli.main(["heatmap", f"out={out}", "heatmap.show=steered", "heatmap.text=Tom, she said: 'go'"]) == 0
    assert len(list(out.glob("heatmap-steered-*.html"))) == 1


FILES = ("adapter.safetensors", "adapter-seeds/seed-1.safetensors")


def test_a_kind_on_the_prompts_summary_and_an_observer(texts, tmp_path):
    out = copied(texts, tmp_path / "run")
    options = ["adapter.kind=toy_prompt_mlp", "adapter.epochs=2", "observers=[toy_drift@1,toy_drift@2:mlp_out]"]
    assert cli.main(["study", f"out={out}", *options]) == 0
    where = stage_result(out, "where")
    noted = [(reading["name"], reading["site"]) for reading in where["readings"]]
    steered = "resid_post@3"
    assert noted == [
        *(("delta_norm", steered), ("strength", steered)),
        *(("drift", "resid_post@1"), ("drift", "mlp_out@2")),
    ]
    assert "drift at mlp_out@2" in (out / "report.html").read_text()
    assert cli.main(["study", f"out={out}", "observers=[]"]) == 0
    assert [r["name"] for r in stage_result(out, "where")["readings"]] == ["delta_norm", "strength"]


def test_several_sites_off_the_residual_stream(texts, tmp_path):
    out = copied(texts, tmp_path / "run")
    options = ["adapter.kind=toy_low_rank", "adapter.sites=[q_in:q_out,down_in:mlp_out]", "layers=[1,2]"]
    assert cli.main(["study", f"out={out}", *options, "adapter.epochs=2", "adapter.lr=0.01"]) == 0
    train = stage_result(out, "train")
    assert [sorted(c["sites"]) for c in train["choice"]["tried"]] == [
        ["mlp_out@1", "q_out@1"],
        ["mlp_out@2", "q_out@2"],
    ]
    arms = evaluation(out)["arms"]
    # no difference of means elsewhere; of what is more than a vector, its size alone
    assert [arm["role"] for arm in arms] == ["base", "treated", "no_op", "control", "random", "random"]
    assert arms[3]["name"] == "magnitude only"
    assert evaluation(out)["no_op_equals_base"]
    assert "Not read: the adapter does not write into the residual stream" in (out / "report.md").read_text()


def test_a_vector_behind_every_block(texts, tmp_path):
    out = copied(texts, tmp_path / "run")
    assert cli.main(["study", f"out={out}", "adapter.kind=bias_only", "adapter.epochs=2"]) == 0
    model = ms.load_model("pocket")
    assert len(stage_result(out, "train")["choice"]["chosen"]["sites"]) == model.cfg.n_layers
    assert stage_result(out, "site")["site"]["layer"] == model.cfg.n_layers - 1
    assert "SAE features" in stage_result(out, "attribute")["effects"]


def test_a_steering_and_an_sae_of_ones_own(texts, tmp_path, capsys):
    out = copied(texts, tmp_path / "run")
    model, watch = ms.load_model("pocket"), ms.Observation(toy_adapters.Drift(), ms.Site(1))
    theirs = ms.load_steering(texts / "adapter.safetensors", model)
    mine = ms.save_steering([watch, theirs], tmp_path / "mine.safetensors", model)
    sae = copied(texts / "sae", tmp_path / "my-sae")
    assert cli.main(["study", f"out={out}", f"adapter.path={mine}", f"sae.path={sae}"]) == 0
    assert stage_result(out, "train")["fitted"] == []
    assert compared(out, "adapter") == pytest.approx(compared(texts, "adapter"))
    assert compared(out, "no-op hook") == 0
    kept = ms.load_steering(out / "adapter.safetensors", model).interventions
    assert [type(iv) for iv in kept] == [ms.Observation, ms.Intervention]  # what it observes stays with it
    noted = [(reading["name"], reading["site"]) for reading in stage_result(out, "where")["readings"]]
    assert noted == [("drift", "resid_post@1"), ("delta_norm", "resid_post@3")]
    assert not (out / "sae").exists()  # what other settings left there is no part of this run
    theirs, ours = (stage_result(folder, "reasonscore") for folder in (texts, out))
    assert json.dumps(ours) == json.dumps(theirs)
    capsys.readouterr()
    assert cli.main(["sae", f"out={out}", "adapter.path=null", "layers=[1]", f"sae.path={sae}"]) == 2
    assert "resid_post@3" in capsys.readouterr().err  # it is of another site
    only = ms.save_steering(watch, tmp_path / "only.safetensors", model)
    assert (
        cli.main(
            [
                "study",
                f"out={tmp_path / 'none'}",
                f"data={prompts_file(tmp_path / 'texts.json')}",
                f"adapter.path={only}",
            ]
        )
        == 2
    )
    assert "the steering holds no intervention" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["adapter.kind=toy_gated_grou"], r"no adapter 'toy_gated_grou'"),
        (["adapter.kind=ablation"], r"ablation takes a direction that is known"),
        (["adapter.sites=[resid_psot]"], r"no point 'resid_psot'"),
        (["adapter.sites=[mlp_out@x]"], r"adapter.sites holds 'mlp_out@x'"),
        (["adapter.sites=[q_in+k_in]"], r"say what is written"),
        (["observers=[drift@1]"], r"no observer 'drift'"),
        (["observers=[toy_drift]"], r"observers holds 'toy_drift'"),
        (["observers=[toy_drift@99]"], r"no layer 99"),
        (["adapter.path=none.safetensors"], r"none.safetensors"),
        (["sae.path=no-such-sae"], r"no-such-sae"),
    ],
)
def test_mistakes_are_named_before_anything_runs(tmp_path, options, message, capsys):
    data = prompts_file(tmp_path / "texts.json")
    assert cli.main(["study", f"out={tmp_path / 'run'}", f"data={data}", *TEXTS, *options]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert " ..." not in told
    assert not (tmp_path / "run").exists()


def test_places_stand_at_every_layer_that_is_named():
    model = ms.load_model("pocket")
    named = [str(place) for place in places(model, "static", ["resid_post"], [0.34, 0.5, 0.5])]
    assert named == ["resid_post@2", "resid_post@3"]
    (fixed,) = places(model, "static", ["mlp_out@0", "resid_pre@1:resid_post@1"], [0.9])
    assert str(fixed) == "mlp_out@0+resid_post@1"
    assert str(fixed.measured) == "resid_post@1"
