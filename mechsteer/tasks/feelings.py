"""Sentiment of stories: the beginning of a story and a half sentence that a word for a feeling ends.

Half of the stories end in words that a happy word makes happy (+1), half in their negation (−1): a model that writes a
happy word whatever stands before it scores 0. The answer words are feelings, not yes and no.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mechsteer.errors import DataError
from mechsteer.tasks.base import Task
from mechsteer.tasks.questions import Question, QuestionSet
from mechsteer.tasks.stories import openings

TARGET = "happiness"
# As many as it takes for a small model of stories to say one of them in most cases: below half of the probability an
# answer counts as none.
GLAD = (
    *(" happy", " glad", " excited", " proud", " joyful", " good", " great", " special", " lucky", " safe", " warm"),
    *(" comfortable", " grateful", " thankful", " brave", " better", " cheerful", " loved", " nice", " calm"),
)
SAD = (
    *(" sad", " upset", " angry", " scared", " unhappy", " bad", " lonely", " tired", " worried", " hurt", " guilty"),
    *(" mad", " nervous", " ashamed", " embarrassed", " jealous", " envious", " hungry", " cold", " sorry"),
    *(" afraid", " sick", " frustrated", " disappointed", " bored"),
)
SUFFIXES = ((" She felt very", 1), (" She did not feel very", -1))


def sentiment_questions(
    stories: Task,
    n: int | None = None,
    *,
    n_words: int = 24,
    suffixes: Sequence[tuple[str, int]] = SUFFIXES,
    words: tuple[Sequence[str], Sequence[str]] = (GLAD, SAD),
    whole_sentences: bool = True,
) -> QuestionSet:
    """The first `n` stories (default: all), each cut where the sentence of its `n_words`-th word ends (or behind that word,
    without `whole_sentences`), and followed by one of `suffixes` in turn.

    `suffixes`: (text, label +1 or −1). `words`: those of happy answers, and of sad ones. Raises DataError for no suffix, and for fewer than `n` stories of that length.
    """
    if not suffixes:
        raise DataError("there is no suffix", "give the half sentence that a feeling ends")
    items = openings(stories, n_words, whole_sentences=whole_sentences).items
    if len(items) < (n or 1):
        raise DataError(
            f"{len(items)} stories are longer than {n_words} words, {n or 1} were asked for",
            "ask for fewer, or cut them earlier",
        )
    questions = []
    for number, item in enumerate(items[:n]):
        suffix, label = suffixes[number % len(suffixes)]
        labels = {TARGET: label}
        questions.append(Question(id=item.id, prompt=item.prompt + suffix, group=item.group, labels=labels))
    found = QuestionSet(name="stories", questions=tuple(questions), target=TARGET)
    return replace(found, name=stories.name, yes=tuple(words[0]), no=tuple(words[1]))
