"""Continue each prompt with its target: loss = cross-entropy(targets) + λ·KL(frozen || steered) + μ·mean‖delta‖²."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass

from mechsteer.training.objectives.base import Terms
from mechsteer.training.objectives.harm import OnSamples, SampleLike
from mechsteer.training.parts import Steered


@dataclass(frozen=True, eq=False)
class CrossEntropy(OnSamples):
    """Cross-entropy in nats per target token.

    `samples`, `dev`: Sample(prompt, target) or pairs of the two (strings, or token ids taken as they are), disjoint.
    `neutral`: texts on which the steered model (scope `all`) is to stay as it is; one batch of them joins every
    step. `kl_weight` λ and `l2_weight` μ: see `mechsteer.training.objectives.harm`.

    Raises ConfigError for weights below 0.
    """

    samples: Sequence[SampleLike]
    _: KW_ONLY
    dev: Sequence[SampleLike] = ()
    neutral: Sequence[str | Sequence[int]] = ()
    kl_weight: float = 0.1
    l2_weight: float = 1e-4

    def __post_init__(self) -> None:
        self.check_weights()

    @property
    def weights(self) -> Mapping[str, float]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return {"cross_entropy": 1.0, "kl": self.kl_weight, "square_norm": self.l2_weight}

    def terms(self, steered: Steered) -> Terms:
        batch = steered.part.batch
        at = batch.predicts_target
        picked = steered.log_probs(at).gather(1, batch.next_tokens[at][:, None])[:, 0]
        return {"cross_entropy": steered.term("cross_entropy", -picked, at.nonzero()[:, 0]), **self.harm(steered)}
