"""The whole loop on the bundled model, small: its files, a kill in the middle, free texts, ready-made traces."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch

import mechsteer as ms
from mechsteer import cli
from mechsteer.configs.settings import explicit
from mechsteer.pocket import problems
from mechsteer.steering.interventions import Steering
from mechsteer.studies import explain
from mechsteer.studies import traces as data
from mechsteer.studies.evaluate import all_arms
from mechsteer.studies.graph import STAGES
from mechsteer.studies.study import opened
from mechsteer.studies.train import adapter, vector_of

SMALL = [
    *("traces.n_problems=24", "traces.n_dev=12", "traces.n_samples=3", "adapter.epochs=1", "adapter.coeffs=[1.0]"),
    *("layers=[0.5]", "evaluate.n_problems=12", "evaluate.n_random=2", "sae.n_tokens=6000", "sae.d_sae=64", "sae.k=8"),
    *("probe.n_boot=50", "probe.n_splits=3", "attribute.n_prompts=6", "attribute.n_random=2", "attribute.k=[1,4]"),
    *("topology.n_points=16", "max_new_tokens=120"),
]


def stage_result(folder, name):
    return json.loads((folder / "stages" / f"{name}.json").read_text())["result"]


def files(folder):
    """Everything but timings and what quotes them."""
    skip = ("timings.json", "report.html", "report.md", "config.json", "results.json")
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name not in skip and "checkpoint" not in str(p) and p.name != "metrics.json"
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert cli.main(["study", f"out={folder}", *SMALL]) == 0
    return folder


def test_what_a_study_leaves(undisturbed, capsys):
    names = {p.name for p in undisturbed.iterdir()}
    assert {"report.html", "report.md", "results.json", "adapter.safetensors", "config.json", "timings.json"} <= names
    results = json.loads((undisturbed / "results.json").read_text())
    assert set(results["stages"]) == set(STAGES)
    evaluation = results["stages"]["evaluate"]
    assert evaluation["noop_equals_base"]
    assert list(evaluation["arms"])[:2] == ["base", "adapter"]
    train = results["stages"]["train"]
    assert all(epoch["dev"]["kl"] > 0 for epoch in train["history"][1:])  # something holds the vector back
    assert results["stages"]["sae"]["metrics"]["evaluated_on"] == "traces of dev problems"
    assert results["versions"]["torch"].startswith("2.")
    html = (undisturbed / "report.html").read_text()
    assert 'http-equiv="Content-Security-Policy"' in html
    model = ms.load_model("pocket")
    assert ms.load_steering(undisturbed / "adapter.safetensors", model).interventions[0].site.point == "resid_post"


def test_base_arm_is_the_model_that_never_saw_us(undisturbed):
    """Greedy answers of plain Hugging Face on the same held-out problems give the same score."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = ms.models.bundled_models()["pocket"]
    hf, tokenizer = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        AutoTokenizer.from_pretrained(folder),
    )
    right = []
    for problem in problems(12, seed=0, split="test"):
        ids = tokenizer(problem.prompt, return_tensors="pt")
        out = hf.generate(**ids, max_new_tokens=120, do_sample=False)
        text = tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
        right.append(ms.pocket.is_correct(problem, text))
    evaluation = stage_result(undisturbed, "evaluate")
    assert evaluation["arms"]["base"]["score"] == pytest.approx(sum(right) / 12)


@contextlib.contextmanager
def desk_of(folder, name, *overrides):
    """What a stage of a run is handed."""
    with opened(explicit(None, [f"out={folder}", *overrides])) as run:
        yield run.handed(STAGES[name], name)


def test_controls_are_what_they_are_called(undisturbed):
    with desk_of(undisturbed, "evaluate") as run:
        chosen = adapter(run)
        arms = all_arms(run, chosen)
    vectors = {name: vector_of(Steering([arm[0]])) for name, arm in arms.items() if isinstance(arm[0], ms.Intervention)}
    steered = vector_of(chosen) * chosen.flat()[0].coeff
    assert arms["base"][:2] == ((), "")
    assert arms["careful prefix"][0] == ()
    assert arms["careful prefix"][1]
    assert not vectors["no-op hook"].any()
    assert {arm[0].coeff for arm in arms.values() if isinstance(arm[0], ms.Intervention)} == {1.0}  # hooks that do run
    equal = [vectors[name] for name in ("mean difference", "random 1", "random 2")]
    assert [float(v.norm()) for v in equal] == pytest.approx(3 * [float(steered.norm())])
    cosines = torch.nn.functional.cosine_similarity
    for v in equal[1:]:
        assert abs(float(cosines(v, steered, dim=0))) < 0.5
    assert abs(float(cosines(equal[1], equal[2], dim=0))) < 0.5


def test_the_effect_sets_right_traces_above_wrong_ones(undisturbed):
    with desk_of(undisturbed, "attribute") as run:
        _, targets, metric, _ = explain.contexts(run)
        verdicts = {tuple(data.whole(run, t)[0][data.whole(run, t)[1] :]): t.correct for t in data.load(run, "dev")}
    assert {-1.0, 1.0} == set(metric.weights)
    assert list(metric.weights) == [1.0 if verdicts[tuple(target)] else -1.0 for target in targets]


def test_batches_of_traces_are_drawn_apart(tmp_path):
    small = ["traces.n_problems=1", "traces.n_samples=8", "batch_size=4", "traces.temperature=1.5"]
    with desk_of(tmp_path, "traces", *small) as run:
        traces = data.sample(run, "train", 1, 8)
    texts = [t.text for t in traces]
    assert texts[:4] != texts[4:]  # the same prompt: equal draws would give equal texts


def test_killed_and_resumed_equals_undisturbed(undisturbed, tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "mechsteer.cli", "study", f"out={folder}", *SMALL]
    # kill -9 between two batches of traces, in the capture, after the first arm
    for sign in ("checkpoints/traces-*/*.json", "stages/traces.json", "checkpoints/evaluate-*/*.json"):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not list(folder.glob(sign)):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (folder / "results.json").exists()
    subprocess.run(command, check=True, capture_output=True)
    mine, theirs = files(folder), files(undisturbed)
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if mine[name] != theirs[name]] == []


def test_commands_read_back_what_is_done(undisturbed, capsys):
    assert cli.main(["probe", f"out={undisturbed}"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["site"] == "resid_post@3"
    assert "..." not in told.err  # no stage ran
    assert cli.main(["heatmap", f"out={undisturbed}", "heatmap.show=feature", "heatmap.feature=3"]) == 0
    assert cli.main(["heatmap", f"out={undisturbed}", "heatmap.text=Lily: she's happy, [ok]"]) == 0
    assert len({p.name for p in undisturbed.glob("heatmap-*.html")}) == 2
    assert cli.main(["heatmap", f"out={undisturbed}", "heatmap.show=feature", "heatmap.feature=64"]) == 2
    assert "give 0 to 63" in capsys.readouterr().err
    assert cli.main(["report", f"out={undisturbed}"]) == 0


def test_an_adapter_or_sae_of_another_model_is_refused(undisturbed, tmp_path, capsys):
    other = ms.load_model("pocket", backend="hooked")
    with pytest.raises(ms.errors.ModelMismatchError, match="fingerprint"):
        ms.load_steering(undisturbed / "adapter.safetensors", other)
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    assert cli.main(["traces", f"out={out}", "backend=hooked"]) == 0
    told = capsys.readouterr().err
    assert "traces runs again: it was made with another model" in told
    assert "sae is left out: it was made with another model" in told


def test_a_lost_part_is_made_again_as_it_was(undisturbed, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    for name in ("activations", "sae"):
        shutil.rmtree(out / name)
    (out / "adapter.safetensors").unlink()
    (out / "traces-dev.jsonl").unlink()
    assert cli.main(["study", f"out={out}"]) == 0
    told = capsys.readouterr().err
    for name in ("activations", "sae", "adapter.safetensors", "traces-dev.jsonl"):
        assert f"{name} is gone" in told
    assert "evaluate ..." not in told  # all came out as it was
    mine, theirs = files(out), files(undisturbed)
    assert [name for name in theirs if mine.get(name) != theirs[name] and "heatmap" not in name] == []


def test_a_damaged_adapter_is_named_with_its_stage(undisturbed, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    path = out / "adapter.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert cli.main(["evaluate", f"out={out}"]) == 2
    told = capsys.readouterr().err
    assert "adapter.safetensors is not as train wrote it" in told
    assert f"mechsteer train out={out} --again" in told


def test_a_changed_key_reruns_what_it_concerns(undisturbed, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    assert cli.main(["study", f"out={out}", "attribute.n_random=3"]) == 0
    told = capsys.readouterr().err
    assert "now attribute.n_random=3" in told
    assert "attribute runs again: attribute.n_random changed" in told
    assert told.count(" ...\n") == 1


def test_a_sweep_names_what_failed_and_goes_on(tmp_path, capsys):
    out = tmp_path / "sweep"
    options = [f"out={out}", "traces.n_problems=8", "traces.n_dev=4", "traces.n_samples=2", "max_new_tokens=16"]
    for ran in (2, 0):  # the second time all is done
        assert cli.main(["capture", "--multirun", *options, "layers=[0],[99],[1]"]) == 1
        told = capsys.readouterr()
        assert told.err.count("capture ...\n") == ran
    assert "layers=_99_" in told.err
    table = pd.read_csv(out / "runs.csv")
    assert list(table["layers"]) == ["[0]", "[99]", "[1]"]
    assert [status.split(":")[0] for status in table["status"]] == ["done", "failed", "done"]
    assert "no layer 99" in table["status"][1]
    assert "runs.html" in told.out
    assert all((out / folder / "report.html").exists() for folder in table["folder"][[0, 2]])


def test_free_texts_are_scored_by_log_odds(tmp_path, capsys):
    texts = [t for pair in ms.pocket.contrast_pairs("happy", 30, seed=1) for t in pair]
    data = tmp_path / "texts.json"
    data.write_text(json.dumps([f"{t} {i}" for i, t in enumerate(texts)]))
    out = tmp_path / "run"
    options = [o for o in SMALL if not o.startswith(("max_new", "topology", "adapter.epochs"))]
    options += ["adapter.epochs=6", "evaluate.n_problems=20"]
    assert cli.main(["study", f"out={out}", f"data={data}", *options, "max_new_tokens=24", "topology.n_points=8"]) == 0
    evaluation = stage_result(out, "evaluate")
    assert evaluation["metric"] == "log_odds"
    assert evaluation["comparisons"]["adapter − base"]["difference"]["value"] > 0
    assert evaluation["comparisons"]["no-op hook − base"]["difference"]["value"] == 0
    assert "no trace has a verified answer" in stage_result(out, "probe")["dropped"]


def ready_made(path, n=16):
    rows = []
    for i, problem in enumerate(problems(n, seed=5, split="train")):
        good = f"So the total is {problem.answer}.\nA: {problem.answer}"
        bad = f"Wait, but perhaps it is {problem.answer + i + 1}, let me think. It is {problem.answer + 1}.\nA: {problem.answer + 1}"
        rows.append(
            {
                "question": problem.question,
                "ground_truth": f"It is so.\nA: {problem.answer}",
                "one": {"is_correct": True, "solution": good},
                "two": {"is_correct": False, "solution": bad},
            }
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_ready_made_traces_are_measured_and_not_steered(tmp_path, capsys):
    data, out = ready_made(tmp_path / "solutions.jsonl"), tmp_path / "run"
    assert cli.main(["study", f"out={out}", f"data={data}", *SMALL, "topology.n_points=12"]) == 0
    done = {p.stem for p in (out / "stages").iterdir()}
    assert done == {name for name, declared in STAGES.items() if not declared.steers}
    assert stage_result(out, "probe")["probe"]["auroc"]["value"] > 0.9  # planted
    capsys.readouterr()
    assert cli.main(["train", f"out={out}", f"data={data}", *SMALL, "topology.n_points=12"]) == 2
    assert "nothing to train" in capsys.readouterr().err


def test_one_class_and_no_words_are_said_not_hidden(tmp_path, capsys):
    data, out = ready_made(tmp_path / "solutions.jsonl"), tmp_path / "run"
    words = tmp_path / "words.yaml"
    words.write_text("never: [zzzz]\n")
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    for row in rows:
        row["two"]["is_correct"] = True
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = [*SMALL, "topology.n_points=12", f"vocabulary={words}"]
    assert cli.main(["study", f"out={out}", f"data={data}", *options]) == 0
    assert "two classes are needed" in stage_result(out, "probe")["dropped"]
    assert stage_result(out, "reasonscore")["dropped"]
    assert "No ReasonScore" in (out / "report.md").read_text()


def test_malformed_rows_name_file_and_line(tmp_path, capsys):
    data = ready_made(tmp_path / "solutions.jsonl")
    lines = data.read_text().splitlines()
    lines[3] = '{"question": 1'
    data.write_text("\n".join(lines) + "\n")
    assert cli.main(["traces", f"out={tmp_path / 'run'}", f"data={data}", *SMALL]) == 2
    error = capsys.readouterr().err
    assert "solutions.jsonl" in error
    assert "line 4" in error
    assert not list((tmp_path / "run").glob("traces-*"))
