"""What is claimed of steering by concepts' vectors, and what decides each claim: see README.md."""

from __future__ import annotations

from common import Claim

COMMON = "common practice of activation addition"
SEEDS = 3
MARGIN = 0.05  # of texts: less would not matter


def _claims(prefix: str, model: str) -> tuple[Claim, ...]:
    """The claims that are asked of every model."""

    def claim(key: str, text: str, source: str, decides: str, bound: float, *, at_most: bool = False) -> Claim:
        about = f"{model}: {text}" if model else text
        return Claim(
            key=f"{prefix}{key}",
            text=about,
            source=source,
            decides=decides,
            bound=bound,
            at_most=at_most,
            tolerance=0.1,
            least_seeds=1 if key == "known" else SEEDS,
        )

    return (
        claim(
            "shows the concept",
            "Adding a concept's vector brings the concept into the text",
            COMMON,
            "share of texts that show it, at the best layer and strength, less that of random directions chosen alike: at least .1",
            0.1,
        ),
        claim(
            "middle layers",
            "Middle layers are the best to steer at",
            COMMON,
            "share of texts at the best cell of the middle third less that of the other layers' best cell: at least 0",
            0.0,
        ),
        claim(
            "text stays whole",
            "At the strength that shows a concept best, text does not break",
            "mechsteer",
            "share of texts that the base model finds less likely than 95 % of its own, at the chosen cell: at most .5",
            0.5,
            at_most=True,
        ),
        claim(
            "same share everywhere",
            "Text breaks at about the same share of the residual's norm at all layers",
            "mechsteer: units of strength",
            "log2 of the largest over the smallest share at which half of the texts break, over layers: at most 1",
            1.0,
            at_most=True,
        ),
        claim(
            "sums are linear",
            "Concept arithmetic is linear: a + b shows each as the effects of the two foretell",
            "concept arithmetic",
            "share of texts that show a under a + b, less what the log-odds of the parts foretell: at least -.1",
            -0.1,
        ),
        claim(
            "sums cost no more than chance",
            "Adding a second concept costs the first no more than a random vector as long",
            "concept arithmetic",
            "share of texts that show a under a + b, less under a + a random vector as long as b: at least -.05",
            -MARGIN,
        ),
        claim(
            "less the opposite",
            "A concept less its opposite, as long as the concept alone, shows it more often",
            "concept arithmetic (happy - sad)",
            "share of texts that show a under a - b at equal length, less under a: at least .05",
            MARGIN,
        ),
        claim(
            "prompting wins",
            "Prompting beats steering",
            "Wu et al. 2025 (AxBench, arXiv 2501.17148)",
            "share of texts that show it behind examples or a word, less the best steering's: at least 0",
            0.0,
        ),
        claim(
            "known",
            "The model knows most of the seventeen concepts",
            "mechsteer",
            "share of concepts that pass their own check, with Wilson's interval over concepts: at least .5",
            0.5,
        ),
    )


def units() -> tuple[Claim, ...]:
    """Of strengths in two models."""
    source = "mechsteer: units of strength"
    return (
        Claim(
            key="raw carries over",
            text="A raw strength means the same in another model",
            source=source,
            decides="|log2| of the ratio of raw strengths at which half of the texts break, at the middle layers: at most .5",
            bound=0.5,
            at_most=True,
            tolerance=0.2,
            least_seeds=SEEDS,
        ),
        Claim(
            key="shares carry over better",
            text="A share of the residual's norm carries over to another model better than a raw strength",
            source=source,
            decides="|log2| of that ratio for raw strengths less that for shares: at least 0",
            bound=0.0,
            tolerance=0.2,
            least_seeds=SEEDS,
        ),
    )


INTROSPECTION = Claim(
    key="introspection",
    text="A model notices a concept that is injected into it, some of the time, and seldom where none is",
    source="injected thoughts: models report them some of the time",
    decides="detection rate less false positives, by mechsteer.concepts.introspect on a large chat model: above 0",
    bound=0.0,
)

PREFIXES = {"model": "", "second": "second: ", "stories": "stories: "}
CLAIMS = (
    *_claims(PREFIXES["model"], ""),
    *units(),
    *_claims(PREFIXES["second"], "The second model"),
    *_claims(PREFIXES["stories"], "Stories"),
    INTROSPECTION,
)
