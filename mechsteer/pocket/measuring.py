"""What the pocket models can do: accuracy by number of steps and style, on held-out problems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from tqdm.auto import tqdm
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen3ForCausalLM

from mechsteer.pocket import CAREFUL_PREFIX, Problem, contrast_pairs, extract_answer, is_correct, problems, style
from mechsteer.pocket.problems import Split
from mechsteer.pocket.statements import BAD, GOOD, LIES, TRUTH


def load(folder: Path) -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerBase]:
    """The model in float32 (stored in float16) in eval mode, and its tokenizer."""
    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return model.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)


@torch.no_grad()
def complete(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    temperature: float = 0.0,
    seed: int = 0,
    max_new_tokens: int = 160,
    batch_size: int = 125,
) -> list[str]:
    """Completions of `prompts`, greedy at temperature 0, through Hugging Face's own `generate`.

    Sampling seeds torch's global generator inside a fork, which is given back as it was.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    texts = [""] * len(prompts)
    how = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for at in tqdm(range(0, len(order), batch_size), desc="completing", unit="batch"):
            rows = order[at : at + batch_size]
            inputs = tokenizer([prompts[i] for i in rows], return_tensors="pt", padding=True, padding_side="left")
            inputs = inputs.to(model.device)
            # transformers' protocol of models that generate does not fit its own models.
            out = model.generate(**inputs, max_new_tokens=max_new_tokens, **how)  # pyright: ignore[reportAttributeAccessIssue]
            new = tokenizer.batch_decode(out[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
            for i, text in zip(rows, new, strict=True):
                texts[i] = text
    return texts


def outcomes(problems: Sequence[Problem], texts: Sequence[str]) -> pd.DataFrame:
    """One row per trace: id, n_steps, operations, style, correct, answered, n_characters."""
    return pd.DataFrame(
        {
            "id": p.id,
            "n_steps": p.n_steps,
            "style": style(t),
            "correct": is_correct(p, t),
            "answered": extract_answer(t) is not None,
            "largest": max(max(s.before, s.operand, s.after) for s in p.steps),
            "n_characters": len(t),
        }
        for p, t in zip(problems, texts, strict=True)
    )


def concepts(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, *, n: int = 200, seed: int = 0
) -> dict[str, float]:
    """For every concept, the share of contrastive pairs after which the model goes on rightly in both texts.

    Rightly: with a remark of the person's kind or mood for "honest" and "happy", with the verdict for "true".
    """
    wanted = {
        "happy": lambda a, b: a in GOOD and b in BAD,
        "true": lambda a, b: a == "True." and b == "False.",
        "honest": lambda a, b: a in TRUTH and b in LIES,
    }
    shares = {}
    for name, right in wanted.items():
        pairs = contrast_pairs(name, n, seed)
        texts = complete(model, tokenizer, [text for pair in pairs for text in pair], max_new_tokens=24)
        said = [text.strip() for text in texts]
        shares[name] = sum(right(a, b) for a, b in zip(said[::2], said[1::2], strict=True)) / n
    return shares


@dataclass(frozen=True)
class Measurement:
    """Outcomes of greedy, careful-prefixed and sampled traces, one row per trace as `outcomes` gives them.

    `concepts`: what the function of this name gives.
    """

    greedy: pd.DataFrame
    prefixed: pd.DataFrame
    sampled: pd.DataFrame
    concepts: dict[str, float]

    @property
    def accuracy(self) -> float:
        return float(self.greedy.correct.mean())

    @property
    def disagreement(self) -> float:
        """The share of problems some of whose sampled traces are right and some wrong."""
        share = self.sampled.groupby("id").correct.mean()
        return float(((share > 0) & (share < 1)).mean())

    def within_problem(self) -> pd.Series:
        """Accuracy of sampled hasty and careful traces, over the problems that got traces of both styles.

        Each problem counts once in either mean.
        """
        table = self.sampled.pivot_table(index="id", columns="style", values="correct", aggfunc="mean")
        return table.reindex(columns=["hasty", "careful"]).dropna().mean()

    def to_markdown(self) -> str:
        """The tables of the model card."""
        g = self.greedy
        by_style = g.groupby("style").correct.agg(["size", "mean"])
        both = g[g["style"].isin(["hasty", "careful"])]
        by_steps = both.pivot_table(index="n_steps", columns="style", values="correct", aggfunc="mean")
        within = self.within_problem()
        lines = [
            f"Greedy accuracy on {len(g)} test problems: **{self.accuracy:.1%}**; "
            f"with the careful prefix: **{self.prefixed.correct.mean():.1%}**.",
            "",
            "| steps | problems | greedy | hasty traces | careful traces | careful prefix |",
            "|---|---|---|---|---|---|",
        ]
        for n, rows in g.groupby("n_steps"):
            styles = [by_steps.at[n, s] if s in by_steps else float("nan") for s in ("hasty", "careful")]
            prefixed = self.prefixed[self.prefixed.n_steps == n].correct.mean()
            cells = [rows.correct.mean(), *styles, prefixed]
            lines.append(
                f"| {n} | {len(rows)} | " + " | ".join("none" if pd.isna(c) else f"{c:.1%}" for c in cells) + " |"
            )
        lines += ["", "| style of the greedy trace | share | accuracy |", "|---|---|---|"]
        lines += [f"| {s} | {r['size'] / len(g):.1%} | {r['mean']:.1%} |" for s, r in by_style.iterrows()]
        size = pd.cut(g.largest, [0, 20, 50, 99], labels=["up to 20", "21-50", "51-99"])
        lines += ["", "| largest number | problems | accuracy |", "|---|---|---|"]
        lines += [
            f"| {label} | {len(rows)} | {rows.correct.mean():.1%} |" for label, rows in g.groupby(size, observed=True)
        ]
        n_problems = self.sampled.id.nunique()
        lines += [
            "",
            f"Of {n_problems} problems with {len(self.sampled) // n_problems} traces each sampled at",
            f"temperature {TEMPERATURE}, {self.disagreement:.0%} have right and wrong traces. Over the "
            "problems with sampled traces of both",
            f"styles, hasty ones are right in {within['hasty']:.1%} and careful ones in "
            f"{within['careful']:.1%}; sampled accuracy is {self.sampled.correct.mean():.1%}.",
            "",
            "Contrastive pairs that the model goes on with as the concept asks, in both texts: "
            + ", ".join(f"{name} {share:.0%}" for name, share in self.concepts.items())
            + ".",
        ]
        return "\n".join(lines)


TEMPERATURE = 0.8


def measure(
    folder: Path,
    *,
    n: int = 1000,
    n_sampled: int = 150,
    n_traces: int = 8,
    seed: int = 0,
    split: Split = "test",
) -> Measurement:
    """Decode `n` held-out problems greedily, with and without the careful prefix, and sample some of them."""
    model, tokenizer = load(folder)
    asked = problems(n, seed=seed, split=split)
    prompts = [p.prompt for p in asked]
    often = asked[:n_sampled] * n_traces
    return Measurement(
        concepts=concepts(model, tokenizer, seed=seed),
        greedy=outcomes(asked, complete(model, tokenizer, prompts)),
        prefixed=outcomes(asked, complete(model, tokenizer, [p + CAREFUL_PREFIX for p in prompts])),
        sampled=outcomes(
            often, complete(model, tokenizer, [p.prompt for p in often], temperature=TEMPERATURE, seed=seed)
        ),
    )
