"""The direct effect of a delta on the logits, beside the whole effect.

direct = unembed(h_final + delta) − unembed(h_final), through the real final norm; h_final is the last residual of
the run without the intervention, and the delta arrives there unchanged: the path that no block answers to.
whole = unembed(h_final of the steered run) − unembed(h_final); residual = whole − direct is what the blocks above add.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.attribution.deltas import Deltas
from mechsteer.errors import ConfigError, ModelMismatchError
from mechsteer.models import backend_of, model_fingerprint
from mechsteer.models.sites import Site, SiteLike
from mechsteer.results import Result, plain
from mechsteer.tokens import token_text

_ENTRIES = 2**24  # of one tensor of logits


@dataclass(frozen=True, kw_only=True)
class LogitAttribution(Result):
    """Mean change of every token's logit over the touched tokens, float64 [d_vocab].

    `direct` and `whole` as above. `explained`: 1 − Σ‖whole − direct‖² / Σ‖whole‖² (nan if nothing changes);
    `residual`: mean ‖whole − direct‖, `norm`: mean ‖whole‖. A logit's constant shift over the vocabulary counts.
    """

    site: Site
    n_tokens: int
    tokens: tuple[str, ...]
    direct: Float[Tensor, " d_vocab"]
    whole: Float[Tensor, " d_vocab"]
    explained: float
    residual: float
    norm: float

    def frame(self) -> pd.DataFrame:
        """token_id, token, direct, whole; most promoted first."""
        order = self.direct.argsort(descending=True, stable=True)
        tokens = [self.tokens[i] for i in order.tolist()]
        values = {"direct": self.direct[order].numpy(), "whole": self.whole[order].numpy()}
        return pd.DataFrame({"token_id": order.numpy(), "token": tokens, **values})

    def promoted(self, k: int = 10) -> pd.DataFrame:
        """The k tokens whose logit the delta itself raises most."""
        return self.frame().head(k)

    def suppressed(self, k: int = 10) -> pd.DataFrame:
        """The k tokens whose logit the delta itself lowers most."""
        return self.frame().tail(k).iloc[::-1].reset_index(drop=True)

    def summary(self, k: int = 20) -> dict[str, Any]:
        """The k most promoted and suppressed tokens and the shares, for reading only."""
        return plain(
            {
                "site": str(self.site),
                "n_tokens": self.n_tokens,
                "explained": self.explained,
                "residual": self.residual,
                "norm": self.norm,
                "promoted": self.promoted(k).to_dict("records"),
                "suppressed": self.suppressed(k).to_dict("records"),
            }
        )


@torch.no_grad()
def attribute_logits(
    model: Any, d: Deltas, *, site: SiteLike | None = None, max_tokens: int | None = 8192
) -> LogitAttribution:
    """Direct and whole effect of the deltas at `site` (default: the only one) on the logits.

    With more than `max_tokens` touched tokens that many are taken, evenly spaced; None takes all. The whole effect is
    that of every intervention in `d`. Raises ConfigError for a site that does not write into the residual stream,
    ModelMismatchError for another model's deltas.
    """
    part, backend = d.at(site), backend_of(model)
    if part.resid is None:
        raise ConfigError(f"{part.site} does not write into the residual stream", "its deltas do not reach the logits")
    if (own := model_fingerprint(model)) != d.model_fingerprint:
        raise ModelMismatchError(f"the deltas come from {d.model_fingerprint}, this model is {own}", "pass that model")
    delta, final, steered = part.rows, d.final[part.touched], d.final_steered[part.touched]
    if max_tokens is not None and len(delta) > max_tokens:
        index = torch.linspace(0, len(delta) - 1, max_tokens).long()
        delta, final, steered = delta[index], final[index], steered[index]

    def logits(resid: Tensor) -> Tensor:
        return backend.weights.unembed(resid.to(backend.device, backend.dtype)).double().cpu()

    direct, whole = (torch.zeros(backend.cfg.d_vocab, dtype=torch.float64) for _ in range(2))
    missed, total, missed_norm, norm = 0.0, 0.0, 0.0, 0.0
    for start in range(0, len(delta), size := max(1, _ENTRIES // backend.cfg.d_vocab)):
        h, plus, there = (t[start : start + size] for t in (final, final + delta, steered))
        base = logits(h)
        own_path, every_path = logits(plus) - base, logits(there) - base
        direct += own_path.sum(0)
        whole += every_path.sum(0)
        gaps, sizes = (every_path - own_path).norm(dim=1), every_path.norm(dim=1)
        missed, total = missed + float(gaps.square().sum()), total + float(sizes.square().sum())
        missed_norm, norm = missed_norm + float(gaps.sum()), norm + float(sizes.sum())
    n, tokenizer = len(delta), model.tokenizer
    ids = range(len(direct))
    names = map(str, ids) if tokenizer is None else (token_text(tokenizer, i) for i in ids)
    return LogitAttribution(
        site=part.site,
        n_tokens=n,
        tokens=tuple(names),
        direct=direct / n,
        whole=whole / n,
        explained=1 - missed / total if total > 0 else float("nan"),
        residual=missed_norm / n,
        norm=norm / n,
    )
