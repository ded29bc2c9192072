"""What is known of the directions of a singular adapter: how far each is scaled and turned, and what it says.

What a triple writes is a direction of the residual stream for o and down alone. For the others something else is shown:

    o, down    u_i                            "written"
    v          W_o u_i, copied to every head of its group, as if a token attended to itself alone    "written through o"
    gate, up   W_down u_i, as if the factor of each neuron that the other map and the nonlinearity make were 1
                                              "written through down"
    q, k       v_i · the norm's scale: what the map reads; queries and keys never reach the residual stream    "read"

Signs: of what is written, that of the mean coefficient over touched tokens, so that "promotes" is what the adapter adds;
of what is read, the decomposition's, which means nothing.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.adapters import Singular
from mechsteer.attribution.running import forward
from mechsteer.attribution.singular_runs import SingularRuns
from mechsteer.bases import Basis, top_tokens
from mechsteer.bases.autoencoders import as_sae
from mechsteer.errors import ShapeError
from mechsteer.features.reason_score import FeatureScores
from mechsteer.models import backend_of
from mechsteer.models.maps import map_between
from mechsteer.runtime.reach import touched
from mechsteer.steering.interventions import Intervention

_SHOWN = {
    **{"o": "written", "down": "written", "v": "written through o", "q": "read", "k": "read"},
    **{"gate": "written through down", "up": "written through down"},
}
N_NAMED, N_TOKENS = 32, 5  # directions whose tokens are told, tokens
_N_CHANCE = 100


def map_of(iv: Intervention) -> tuple[int, str]:
    """(layer, name) of the map that an adapter stands at."""
    found = map_between(iv.reads, iv.site)
    assert found is not None  # a singular adapter stands nowhere else
    return found


@torch.no_grad()
def ranked(runs: SingularRuns, contributions: Float[Tensor, " n_dirs"], total: float | None) -> pd.DataFrame:
    """Geometry, coefficient, contribution and share of every triple, by falling |share|; shares are nan without a total."""
    records = []
    for iv, made in zip(runs.own, runs.adapters, strict=True):
        layer, name = map_of(iv)
        scaled = made.values(iv.coeff) / made.s - 1
        turned = {side: _turned(made, p, iv.coeff) for side, p in (("turned_u", made.p_u), ("turned_v", made.p_v))}
        for i in range(len(made.s)):
            told = {"label": f"{name}.{layer}.sv{i}", "layer": layer, "map": name}
            told |= {"singular_value": float(made.s[i]), "scaled": float(scaled[i])}
            records.append(told | {side: float(angles[i]) for side, angles in turned.items()})
    table = pd.DataFrame(records)
    table["coefficient"] = coefficients(runs).numpy()
    table["contribution"] = contributions.numpy()
    table["share"] = table["contribution"] / (float("nan") if total is None else total)
    order = contributions.abs().argsort(descending=True, stable=True).numpy()
    return table.iloc[order].reset_index(names="direction")


def _turned(made: Singular, p: Tensor | None, coeff: float) -> Tensor:
    turn = made.rotation(p, coeff)
    return torch.zeros(len(made.s)) if turn is None else turn.diagonal().clamp(-1, 1).arccos()


@torch.no_grad()
def coefficients(runs: SingularRuns) -> Tensor:
    """[n_dirs] mean of ⟨u_i, delta⟩ over touched tokens; nan of an adapter that touches none."""
    totals = [torch.zeros(len(made.s), dtype=torch.float64) for made in runs.adapters]
    counts = torch.zeros(len(totals))
    for each in runs.texts:
        nowhere = (each.batch.rows[:0], each.batch.rows[:0])
        _, recorded = forward(runs.model, each.batch, runs.ivs, start=each.start, record=True, unembed_at=nowhere)
        deltas = [values[0] for iv, values in zip(runs.ivs, recorded, strict=True) if isinstance(iv.adapter, Singular)]
        for number, (iv, delta) in enumerate(zip(runs.own, deltas, strict=True)):
            at = touched([iv], each.batch.context())
            u = runs.adapters[number].u.double()
            totals[number] += (delta.flatten(2)[at].double() @ u.to(delta.device)).sum(0).cpu()
            counts[number] += int(at.sum())
    return torch.cat([total / count for total, count in zip(totals, counts, strict=True)])


@torch.no_grad()
def residual_images(model: Any, runs: SingularRuns, signs: Tensor) -> Tensor:
    """Unit rows [n_dirs d_model]: what is shown of every triple, see above; rows of zeros where nothing is left."""
    weights, images = backend_of(model).weights, []
    for iv, made in zip(runs.own, runs.adapters, strict=True):
        layer, name = map_of(iv)
        u = made.u.T  # [rank d_write]
        if name in ("q", "k"):
            scale = weights.norm_scale(layer, name)
            images.append(made.vh if scale is None else made.vh * scale.to(made.vh))
        elif name == "v":
            reader = weights.map_weight(layer, "o")
            images.append(_repeated(u, reader.shape[1], model.cfg.d_head) @ reader.T.to(u))
        elif name in ("gate", "up"):
            images.append(u @ weights.map_weight(layer, "down").T.to(u))
        else:
            images.append(u)
    rows = torch.cat([image.float().cpu() for image in images])
    reads = torch.cat(
        [torch.full((len(m.s),), map_of(iv)[1] in ("q", "k")) for iv, m in zip(runs.own, runs.adapters, strict=True)]
    )
    rows = rows * torch.where(reads | (signs >= 0) | signs.isnan(), 1.0, -1.0)[:, None]
    norms = rows.norm(dim=1, keepdim=True)
    return torch.where(norms > 0, rows / norms, 0)


def _repeated(u: Tensor, d_in: int, d_head: int) -> Tensor:
    """Outputs of v [rank heads·d_head] as o reads them: heads of key and value serve a group of query heads each."""
    heads = u.unflatten(1, (-1, d_head))
    return heads.repeat_interleave(d_in // u.shape[1], dim=1).flatten(1)


def in_words(
    model: Any, runs: SingularRuns, directions: pd.DataFrame, sae: Any, scores: FeatureScores | None, seed: int
) -> tuple[pd.DataFrame, float]:
    """(shown, promotes, suppresses of the first directions, and with an SAE feature, feature_cosine, reason_score of all,
    rows as those of `directions`; the |cosine| that chance makes)."""
    signs = torch.as_tensor(directions.sort_values("direction")["coefficient"].tolist())
    images = residual_images(model, runs, signs)[directions["direction"].tolist()]
    n = min(N_NAMED, len(directions))
    basis = Basis(images[:n], tuple(directions["label"][:n]), {"kind": "singular adapter"})
    tokens = top_tokens(model, basis, N_TOKENS)
    found = pd.DataFrame({"shown": [_SHOWN[str(name)] for name in directions["map"]]})
    for side, name in (("promoted", "promotes"), ("suppressed", "suppresses")):
        found[name] = [*tokens[side], *([[]] * (len(directions) - n))]
    if sae is None:
        return found, float("nan")
    closest, chance = _closest(images, sae, scores, seed)
    return pd.concat([found, closest], axis=1), chance


def _closest(images: Tensor, sae: Any, scores: FeatureScores | None, seed: int) -> tuple[pd.DataFrame, float]:
    """(feature, feature_cosine, reason_score of the decoder row closest to each image, the cosine that chance makes).

    The last is the mean largest |cosine| of a random direction. Raises ShapeError for an SAE of another length.
    """
    rows = as_sae(sae).W_dec.detach().float().cpu()
    if rows.shape[1] != images.shape[1]:
        raise ShapeError(
            f"the SAE has rows of {rows.shape[1]}, the residual stream {images.shape[1]} dimensions",
            "take an SAE of the residual stream of this model",
        )
    norms = rows.norm(dim=1, keepdim=True)
    rows = torch.where(norms > 0, rows / norms, 0)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(_N_CHANCE, images.shape[1], generator=generator)
    chance = ((drawn / drawn.norm(dim=1, keepdim=True)) @ rows.T).abs().amax(1).mean()
    cosines = images @ rows.T
    best = cosines.abs().argmax(1)
    score = [float("nan")] * len(best) if scores is None else [float(scores.score[i]) for i in best.tolist()]
    found = {"feature": best.numpy(), "feature_cosine": cosines.gather(1, best[:, None])[:, 0].numpy()}
    return pd.DataFrame(found | {"reason_score": score}), float(chance)
