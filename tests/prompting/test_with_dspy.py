"""A steered model answers DSPy as `generate` does; the words that are planted to help are found, and held out."""

import extras
import pytest
import toys

import mechsteer as ms
from mechsteer.errors import ConfigError, DataError
from mechsteer.prompting import with_dspy
from mechsteer.results import from_json, to_json
from mechsteer.tasks import Item, Task
from mechsteer.tokens import continuation_text

pytestmark = extras.needs_dspy

SITE = ms.Site(1, "resid_post")


@pytest.fixture(scope="module")
def model():
    return toys.shared("llama")


@pytest.fixture(scope="module")
def steering():
    return ms.Intervention(ms.adapters.Static(4 * toys.vector()), SITE)


def expected(model, prompt, steering=(), **options):
    out = ms.generate(model, [prompt], steering, max_new_tokens=5, **options)
    return continuation_text(model.tokenizer, out.tokens[0])


def test_it_answers_as_generate_does(model, steering):
    for given in ((), steering):
        lm = with_dspy.steered_lm(model, given, max_new_tokens=5)
        assert lm("one and two") == [expected(model, "one and two", given)]
    assert expected(model, "one and two") != expected(model, "one and two", steering)


def test_draws_are_those_of_seed_text_and_count(model):
    def asked(seed):
        lm = with_dspy.steered_lm(model, max_new_tokens=5, temperature=1.0, seed=seed)
        return [lm("one")[0], lm("two")[0], lm("one")[0]]

    first = asked(0)
    assert first == asked(0) != asked(1)
    assert first[0] != first[2]


def items(n, start=0):
    """Problems whose "right answer" is the prompt itself; see `Planted`."""
    return [Item(id=f"{i}", prompt=f"problem {i}", answer=f"{i}", group=f"{i}") for i in range(start, start + n)]


@pytest.fixture
def planted(model, monkeypatch):
    """Texts are right where the prompt ended in " well": whatever is written tells what was asked."""
    said = []

    def generate(_model, prompts, _steering=(), **options):
        out = ms.generate(model, prompts, (), max_new_tokens=1)
        texts = [p if isinstance(p, str) else continuation_text(model.tokenizer, p) for p in prompts]
        said.extend(texts)
        out.tokens[:] = [
            model.tokenizer.encode("yes" if text.endswith(" well") else "no", add_special_tokens=False)
            for text in texts
        ]
        return out

    monkeypatch.setattr(with_dspy, "generate", generate)
    monkeypatch.setattr("mechsteer.evaluation.verified.generate", generate)
    return said


TASK = Task(name="planted", items=(), verifier=lambda _answer, text: text == "yes")


def test_the_words_that_help_are_found_and_held_out(model, steering, planted):
    found = with_dspy.optimise_prompt(
        model, steering, TASK, items(3), items(4, start=10), candidates=[" badly", " well", " so"], n_boot=20
    )
    assert found.text == "well"
    assert found.dev_scores == {"": 0.0, "badly": 0.0, "well": 1.0, "so": 0.0}
    assert found.test_scores == {"base": 0.0, "base with words": 1.0, "steered": 0.0, "steered with words": 1.0}
    assert found.steered.gained == 4
    assert found.demos == ()
    on_test = [text for text in planted if "problem 1" in text and len(text.split()[1]) == 2]
    assert not [text for text in on_test if "badly" in text]  # other candidates have not seen them
    assert from_json(with_dspy.PromptChoice, to_json(found)) == found


def test_nothing_better_than_no_words_is_no_words(model, steering, planted):
    found = with_dspy.optimise_prompt(
        model, steering, TASK, items(2), items(2, start=10), candidates=[" badly"], n_boot=20
    )
    assert found.text == ""
    assert found.steered.difference.value == 0


def test_an_optimiser_of_dspys_own(model, steering):
    optimizer = with_dspy.dspy.LabeledFewShot(k=1)
    worked = [
        Item(id=f"{i}", prompt=f"problem {i}", answer=f"{i}", group=f"{i}", meta={"worked": f" it is {i}"})
        for i in range(4)
    ]
    found = with_dspy.optimise_prompt(
        model, steering, TASK, worked, items(1, start=10), optimizer=optimizer, max_new_tokens=3, n_boot=20
    )
    ((problem, solution),) = found.demos
    assert (problem, solution) in {(item.prompt, item.meta["worked"]) for item in worked}
    assert found.text == ""


def test_words_stand_behind_or_before(model):
    made = with_dspy.with_words(with_dspy.program(), " please")
    for where, text in (("behind", "sum please"), ("before", "please sum")):
        (message,) = with_dspy.PlainAdapter(where).format(made.signature, [], {"problem": "sum"})
        assert message["content"] == text


def test_refusals(model, steering):
    with pytest.raises(ConfigError, match="not clear"):
        with_dspy.optimise_prompt(model, steering, TASK, items(1), items(1, start=5))
    with pytest.raises(DataError, match="none may be in both"):
        with_dspy.optimise_prompt(model, steering, TASK, items(2), items(1), candidates=["a"])
    with pytest.raises(ConfigError, match="cannot be verified"):
        with_dspy.solves(Task(name="open", items=()))
