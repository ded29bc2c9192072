"""The cards of the bundled models: what they are, what they were made from, what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

from mechsteer.pocket.measuring import load
from mechsteer.pocket.recipes import LOG, Recipe

CARD = """---
license: mit
language: en
library_name: transformers
tags: [mechsteer, word-problems, chain-of-thought]
---
# {name}

{what}
It solves generated word problems of one to four steps (addition, subtraction, small multiplication,
comparison; numbers from 1 to 99) by writing a chain of thought, and knows short persona, sentiment and
true/false statements. It knows nothing else: it is made for trying interpretability methods on.

- Architecture: Qwen3, {parameters:,} parameters, {config.num_hidden_layers} layers,
  d_model {config.hidden_size}, tied embeddings, context {config.max_position_embeddings}; stored in float16,
  measured in float32.
- Tokenizer: byte-level BPE of {config.vocab_size} tokens, trained on the same text; every digit is a token.
  No BOS is added; a document ends in `<|endoftext|>`, which is also the stop token.
- Text: `mechsteer.pocket.training_text`, written by a program from no other source; {tokens:.1f} million
  tokens (padding not counted). Problems are split by a hash of their numbers and signs: no chain of numbers
  of the test split is a problem in the training text.
- Prompt: `Q: ...\\nA:`, and after it, if a careful trace is wanted, ` Let me think carefully.`

## Accuracy

{tables}

## Made and measured by

```
python scripts/train_pocket.py train {name}
python scripts/train_pocket.py measure {name}
```

Recipe: `{recipe}`; the loss at every 25th step is in `training_log.jsonl`.
"""
VOICES_CARD = """---
license: mit
language: en
library_name: transformers
tags: [mechsteer, style, steering]
---
# {name}

{what}
It writes short statements about people, objects and places in 17 voices (nine moods, six registers, brief and
verbose), two at once, or plainly. Nothing names a voice: the model goes on as the text before it is written,
and after a plain text or a request ("Tell me about the garden.") in any voice. It knows nothing else.

- Architecture: Qwen3, {parameters:,} parameters, {config.num_hidden_layers} layers,
  d_model {config.hidden_size}, tied embeddings, context {config.max_position_embeddings}; stored in float16,
  measured in float32.
- Tokenizer: byte-level BPE of {config.vocab_size} tokens, trained on the same text.
  No BOS is added; a document ends in `<|endoftext|>`, which is also the stop token.
- Text: `mechsteer.pocket.voice_text`, written by a program from no other source; {tokens:.1f} million
  tokens (padding not counted). No scene (what is done with which object, where) of the held-out split is in it.

## Voices

{tables}

## Made and measured by

```
python scripts/train_voices.py --minutes 3.5 --writers 13
```

Recipe: `{recipe}`, ended by the clock if before its steps; the loss at every 25th step is in `training_log.jsonl`.
"""
WHAT = {
    "voices": "The model to try steering of mood and style on, offline and within seconds.",
    "pocket": "The student of the two models that mechsteer ships: right often enough to be worth\n"
    "explaining, and wrong often enough that an intervention can help.",
    "pocket-teacher": "The teacher of the two models that mechsteer ships, taught fewer hasty traces.",
}


def trained_tokens(log: Path) -> int:
    """The tokens of all runs in a training log, one after the other: in each, steps and tokens count from 0 again."""
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    following = [entry["step"] for entry in entries[1:]] + [0]
    return sum(entry["tokens"] for entry, step in zip(entries, following, strict=True) if step <= entry["step"])


class Tables(Protocol):
    """What was measured."""

    def to_markdown(self) -> str:
        """The tables of the card."""
        ...


def write_card(name: str, folder: Path, measured: Tables, recipe: Recipe) -> None:
    """Write the model card `README.md` of the bundled model `name` into `folder`."""
    model, _ = load(folder)
    card = (VOICES_CARD if recipe.text == "voices" else CARD).format(
        name=name,
        what=WHAT[name],
        config=model.config,
        parameters=model.num_parameters(),
        tokens=trained_tokens(folder / LOG) / 1e6,
        tables=measured.to_markdown(),
        recipe=recipe,
    )
    (folder / "README.md").write_text(card)
