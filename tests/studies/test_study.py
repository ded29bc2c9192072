"""The whole loop on the bundled model, small: its files, a kill in the middle, ready-made traces."""

import contextlib
import dataclasses
import inspect
import json
import multiprocessing
import shutil
import time
import typing

import extras
import pytest
import torch
from study_toys import SMALL, desk_of, files, prompts_file, run_stages, stage_result

import mechsteer as ms
from mechsteer import cli
from mechsteer.models.sites import Site
from mechsteer.pocket import problems
from mechsteer.results import to_plain
from mechsteer.runtime.threads import side_by_side
from mechsteer.studies import traces
from mechsteer.studies.contexts import contexts
from mechsteer.studies.graph import STAGES, before
from mechsteer.studies.kept import Kept, whole
from mechsteer.studies.problems import Problems
from mechsteer.studies.study import FUNCTIONS, opened


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    extras.require_sae_lens()
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert cli.main(["study", f"out={folder}", *SMALL]) == 0
    assert {p.stem for p in (folder / "stages").iterdir()} == {s for s in STAGES if not STAGES[s].on_request}
    for name in (name for name, declared in STAGES.items() if declared.on_request):
        assert cli.main([name, f"out={folder}"]) == 0
    return folder


def test_what_a_study_leaves(undisturbed):
    names = {p.name for p in undisturbed.iterdir()}
    assert {"report.html", "report.md", "results.json", "adapter.safetensors", "config.json", "timings.json"} <= names
    assert not {".lock", "checkpoints"} & {p.name for p in undisturbed.iterdir() if p.is_file() or list(p.iterdir())}
    results = json.loads((undisturbed / "results.json").read_text())
    assert set(results["stages"]) == set(STAGES)
    evaluation = results["stages"]["evaluate"]["evaluation"]
    assert evaluation["no_op_equals_base"]
    names = [arm["name"] for arm in evaluation["arms"]]
    assert names[:2] == ["base", "adapter"]
    # the careful prompt is base's arm of that style as well
    assert {"careful prefix", "adapter, forced careful", "base, forced hasty", "adapter, forced hasty"} <= set(names)
    assert "base, forced careful" not in names
    judged = evaluation["verdict"]
    assert judged["margin"] == 0.03
    assert judged["kind"] == "cannot tell"  # so few problems, and at most two random directions
    parts = results["stages"]["outcome"]
    attributed = results["stages"]["attribute"]
    tried = {name for name, found in attributed["effects"].items() if not found["nothing_to_attribute"]}
    assert set(parts["parts"]) == tried
    assert bool(tried) != bool(parts["dropped"])
    assert list(attributed["other_seeds"]) == ["SAE features, SAE seed 1"]
    assert results["stages"]["paths"]["paths"]["site"] == attributed["site"]
    (fitted,) = results["stages"]["train"]["fitted"]
    assert all(epoch["dev"]["kl"] > 0 for epoch in fitted["history"][1:])  # something holds the vector back
    assert results["stages"]["sae"]["quality"]["evaluated_on"] == "traces of dev problems"
    assert results["versions"]["torch"].startswith("2.")
    html = (undisturbed / "report.html").read_text()
    assert 'http-equiv="Content-Security-Policy"' in html
    assert "Where it was steered" in html
    assert "What it writes, base beside steered" in html
    assert "careful: works step by step and then checks itself" in html
    assert results["stages"]["topology"]["examples"]
    model = ms.load_model("pocket")
    assert ms.load_steering(undisturbed / "adapter.safetensors", model).interventions[0].site.point == "resid_post"


def test_texts_are_shown_as_both_models_write_them(undisturbed):
    """Both texts of the page come back from the model itself, and each is verified on its own problem."""
    pairs = json.loads((undisturbed / "results.json").read_text())["stages"]["where"]["pairs"]
    assert len(pairs) == 4
    model = ms.load_model("pocket")
    steering = ms.load_steering(undisturbed / "adapter.safetensors", model)
    page = (undisturbed / "report.md").read_text().replace("\\", "")
    for pair in pairs:
        for name, added in (("base", ()), ("steered", steering)):
            (text,) = ms.generate(model, [pair["prompt"]], added, max_new_tokens=80).texts
            assert pair[name].startswith(text) or text.startswith(pair[name]), name
            assert len(text) > 20, name
            assert pair[f"{name}_correct"] in (True, False)
        assert f"base: {'right' if pair['base_correct'] else 'wrong'}, {pair['base_style']}" in page


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
    base, *_ = stage_result(undisturbed, "evaluate")["evaluation"]["arms"]
    assert base["score"] == pytest.approx(sum(right) / 12)


def test_stages_take_what_they_declare():
    assert set(FUNCTIONS) == set(STAGES)
    for name, declared in STAGES.items():
        assert list(inspect.signature(FUNCTIONS[name]).parameters) == ["desk", *declared.reads], name
        hints = typing.get_type_hints(FUNCTIONS[name])
        for need in declared.reads:
            gives = typing.get_type_hints(FUNCTIONS[need])["return"]
            # one that steers is missing where nothing is steered
            optional = STAGES[need].steers and not declared.steers
            assert hints[need] == (gives | None if optional else gives), (name, need)


def test_a_stage_needs_nothing_but_what_it_declares(undisturbed, tmp_path):
    """Each stage again, in a folder that holds only what the stages it reads have written: the same result."""
    for name, declared in STAGES.items():
        bare = tmp_path / name
        bare.mkdir()
        for need in declared.reads:
            for file in STAGES[need].writes:
                if (undisturbed / file).is_dir():
                    shutil.copytree(undisturbed / file, bare / file)
                elif (undisturbed / file).exists():
                    shutil.copy(undisturbed / file, bare / file)
        with desk_of(undisturbed, name) as (desk, results):
            alone = dataclasses.replace(desk, folder=bare, checkpoints=bare / "checkpoints")
            # as a run does it: on as many threads
            with side_by_side(desk.model) if declared.has_pieces else contextlib.nullcontext():
                again = to_plain(FUNCTIONS[name](alone, **results))
        assert json.dumps(again) == json.dumps(stage_result(undisturbed, name)), name


def test_the_effect_sets_right_traces_above_wrong_ones(undisturbed):
    with desk_of(undisturbed, "attribute") as (desk, results):
        kept = Kept(desk)
        seen = contexts(desk, kept, Problems(desk, results["traces"].metric), 8)
        rows = [(whole(desk.model, trace), trace.correct) for trace in kept.traces("dev")]
    verdicts = {tuple(ids[n:]): correct for (ids, n), correct in rows}
    assert {-1.0, 1.0} == set(seen.metric.weights)
    assert sum(seen.metric.weights) == 0  # as many right as wrong
    assert len(seen.groups) == len(seen.prompts) <= 8
    assert list(seen.metric.weights) == [1.0 if verdicts[tuple(target)] else -1.0 for target in seen.continuations]


def test_batches_of_traces_are_drawn_apart(tmp_path):
    small = ["traces.n_problems=1", "traces.n_samples=8", "batch_size=4", "traces.temperature=1.5"]
    with desk_of(tmp_path, "traces", *small) as (desk, _):
        texts = [t.text for t in traces.sample(desk, Problems(desk, "accuracy"), "train", 1, 8)]
    assert texts[:4] != texts[4:]  # the same prompt: equal draws would give equal texts


def test_killed_and_resumed_equals_undisturbed(undisturbed, tmp_path):
    folder = tmp_path / "run"
    fresh = multiprocessing.get_context("forkserver")  # processes of their own, which need not import all that again
    fresh.set_forkserver_preload(["mechsteer.studies.study", "mechsteer.features.sae", "transformer_lens"])
    # kill -9 between two batches of traces, in the capture, after the first arm
    for sign in ("checkpoints/traces-*/*.json", "stages/traces.json", "checkpoints/evaluate-*/*.json"):
        process = fresh.Process(target=run_stages, args=(f"out={folder}", *SMALL))
        process.start()
        while not list(folder.glob(sign)):
            assert process.is_alive()
            time.sleep(0.01)
        process.kill()
        process.join()
    assert not (folder / "results.json").exists()
    process = fresh.Process(target=run_stages, args=(f"out={folder}",), kwargs={"all_stages": True})
    process.start()
    process.join()
    assert process.exitcode == 0
    mine, theirs = files(folder), files(undisturbed)
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if mine[name] != theirs[name]] == []


def test_an_adapter_of_another_model_is_refused(undisturbed):
    other = ms.load_model("pocket", dtype=torch.bfloat16)
    with pytest.raises(ms.errors.ModelMismatchError, match="fingerprint"):
        ms.load_steering(undisturbed / "adapter.safetensors", other)


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


@extras.needs_sae_lens
def test_ready_made_traces_are_measured_and_not_steered(tmp_path, capsys):
    data, out = ready_made(tmp_path / "solutions.jsonl"), tmp_path / "run"
    assert cli.main(["study", f"out={out}", f"data={data}", *SMALL, "topology.n_points=12"]) == 0
    done = {p.stem for p in (out / "stages").iterdir()}
    assert done == {name for name, declared in STAGES.items() if not declared.steers and not declared.on_request}
    assert stage_result(out, "probe")["evaluation"]["probe"]["auroc"]["value"] > 0.9  # planted
    assert "Yes: within problems a probe" in capsys.readouterr().out
    for command in (["train"], ["heatmap", "heatmap.show=steered"]):
        assert cli.main([*command, f"out={out}"]) == 2
    told = capsys.readouterr().err
    assert "nothing to train" in told
    assert "nothing is steered in this run" in told


@extras.needs_sae_lens
def test_one_class_and_no_words_are_said_not_hidden(tmp_path):
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
    assert not list(tmp_path.glob("run/traces-*"))


def test_the_order_of_stages_is_that_of_their_needs():
    seen: set[str] = set()
    for name, declared in STAGES.items():
        assert set(declared.reads) <= seen
        seen.add(name)
    assert before("probe") == ["traces", "capture", "train", "site"]


def test_the_study_from_python(tmp_path):
    data = prompts_file(tmp_path / "texts.json")
    with opened({"out": str(tmp_path / "run"), "data": str(data), "layers": [1]}) as run:
        assert run.result("capture").sites == (Site(1, "resid_post"),)
    with pytest.raises(ms.errors.ConfigError, match=r"unknown key 'traces\.n_problem'"):
        ms.study({"traces": {"n_problem": 3}})
