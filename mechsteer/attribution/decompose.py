"""A delta expressed in a labelled basis: delta = coefficients @ directions + residual, for every touched token.

    attribute           projection on an orthonormal basis; else a sparse code by orthogonal matching pursuit
    attribute_encoder   what an SAE's encoder sees: f(h + delta) − f(h), decoded by W_dec
    attribute_maps      one projection per map of a singular basis
    attribute_logits    the delta carried to the final norm and the unembedding (in `logits.py`)

For directions that a map reads, what is expressed is the delta as the map meets it: norm(h + delta) − norm(h), with
h the residual stream where the delta is added. The maps that read this very stream meet exactly this; for later
ones it is the delta carried unchanged, as if nothing between had answered to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.attribution.deltas import Deltas, SiteDeltas
from mechsteer.attribution.explained import NullExplained, against_nulls
from mechsteer.attribution.pursuit import matching_pursuit
from mechsteer.bases import Basis, as_basis, from_sae
from mechsteer.errors import ConfigError, DataError, ModelMismatchError, NonFiniteError, ShapeError
from mechsteer.features.encoding import encode
from mechsteer.models.sites import Site, SiteLike
from mechsteer.results import Result, live

_ENTRIES = 2**24  # of the largest dense tensor of feature activations

Reading = Literal["projection", "pursuit", "encoder"]


@dataclass(frozen=True, eq=False)
class Coded:
    """Deltas and their sparse code, token by token."""

    directions: Float[Tensor, "n_dirs d_model"]
    codes: Tensor  # sparse [n_distinct n_dirs]: equal deltas share a code
    distinct: Float[Tensor, "n_distinct d_model"]  # the deltas themselves
    code_of: Tensor  # [n_tokens] -> row of `codes` and `distinct`

    @property
    def components(self) -> Tensor:
        """coefficients @ directions, [n_distinct d_model]."""
        return torch.sparse.mm(self.codes, self.directions.to(self.codes.dtype))


@dataclass(frozen=True, kw_only=True)
class Attribution(Result):
    """Deltas in a basis. Everything is float64; means are over the touched tokens.

    `coefficients` [n_dirs]: mean coefficient. `energy` [n_dirs]: Σ coefficient² / Σ ‖delta‖², a partition of
    `explained` where the basis is orthonormal, a measure of size elsewhere. `explained`: 1 − Σ‖residual‖² / Σ‖delta‖²
    (below 0 where the reading makes things worse; nan for deltas of zero). `residual`: mean ‖residual‖, to be held
    against `norm`, the mean ‖delta‖. `beside_null`: `explained` beside what the same reading explains of the delta turned
    at random, which any dictionary of this size does (None where no null was asked for). `expressed`: "delta", or "norm(h + delta) − norm(h)" for what maps read.
    `labels`, `source`, `singular_values` [n_dirs] are those of the basis.

    What there is for every token (`tokens`, `deltas`, `components`, `residuals`) and the basis itself stay in the
    process that computed them: in a result that was read from a file they raise DataError.
    """

    site: Site
    labels: tuple[str, ...]
    source: Mapping[str, Any]
    singular_values: Float[Tensor, " n_dirs"] | None = None
    reading: Reading
    expressed: str
    k: int | None  # atoms per token of a pursuit
    n_tokens: int
    coefficients: Float[Tensor, " n_dirs"]
    energy: Float[Tensor, " n_dirs"]
    explained: float
    residual: float
    norm: float
    beside_null: NullExplained | None = None
    basis: Basis | None = live()
    coded: Coded | None = live()

    @property
    def _coded(self) -> Coded:
        if self.coded is None:
            raise DataError(
                "this attribution was read from a file: the values of single tokens are not in it",
                "attribute the deltas again, in this process",
            )
        return self.coded

    @property
    def deltas(self) -> Tensor:
        """What was expressed, [n_tokens d_model], rows of touched tokens in the order of prompts and positions."""
        return self._coded.distinct[self._coded.code_of]

    @cached_property
    def tokens(self) -> Tensor:
        """Coefficients per touched token: a sparse tensor [n_tokens n_dirs]."""
        return self._coded.codes.index_select(0, self._coded.code_of).coalesce()

    @property
    def components(self) -> Tensor:
        """coefficients @ directions per touched token, [n_tokens d_model]."""
        return self._coded.components[self._coded.code_of]

    @property
    def residuals(self) -> Tensor:
        """deltas − components, [n_tokens d_model]."""
        return self.deltas - self.components

    def frame(self) -> pd.DataFrame:
        """One row per direction that takes part: label, coefficient, energy; singular values where there are any.

        Sorted by energy.
        """
        columns: dict[str, Any] = {"label": list(self.labels), "coefficient": self.coefficients, "energy": self.energy}
        if self.singular_values is not None:
            columns["singular_value"] = self.singular_values
        table = pd.DataFrame({name: v.numpy() if isinstance(v, Tensor) else v for name, v in columns.items()})
        table = table.loc[table["energy"] > 0]
        return table.sort_values("energy", ascending=False, kind="stable").reset_index(names="direction")

    def top(self, k: int = 10) -> pd.DataFrame:
        """The k rows of `frame` with the most energy."""
        return self.frame().head(k)


def attribute(
    d: Deltas, basis: Basis, *, k: int = 32, site: SiteLike | None = None, nulls: int = 20, seed: int = 0
) -> Attribution:
    """Express deltas in a basis: by projection if it is orthonormal, else by matching pursuit with k atoms a token.

    `site` names one of several sites. `nulls`: so many random rotations of the delta are read as well. For a basis of what maps read the deltas pass the norm first (see above).
    Raises ConfigError, ShapeError (directions of another length), ModelMismatchError (a singular basis of another
    model), NonFiniteError.
    """
    basis = as_basis(basis)
    part = _part(d, basis, site)
    if k < 1:
        raise ConfigError(f"k is {k}", "at least one atom a token")
    codes, distinct, code_of = code(_expressed(part, basis), basis, k)
    reading: Reading = "projection" if basis.is_orthonormal else "pursuit"
    atoms = None if basis.is_orthonormal else k

    def components(rows: Tensor, _which: Tensor) -> Tensor:
        found, _, of = code(rows, basis, k)
        return torch.sparse.mm(found, basis.directions.double())[of]

    times = torch.bincount(code_of, minlength=len(distinct))
    beside = against_nulls(components, distinct, times, nulls, seed)
    return _attribution(basis, part, reading, atoms, distinct, code_of, codes, beside)


def code(rows: Tensor, basis: Basis, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """(codes, distinct, code_of): sparse float64 coefficients [n_distinct n_dirs] of the distinct rows of `rows`.

    `code_of` [n] says which of them each row is. A static vector is one row, whatever the number of tokens.
    """
    if rows.dtype in (torch.bfloat16, torch.float16):
        rows = rows.float()  # exact; pursuit solves triangular systems, which processors do not do in half precision
    if bool((rows == rows[0]).all()):
        distinct, code_of = rows[:1], torch.zeros(len(rows), dtype=torch.long)
    else:
        distinct, code_of = torch.unique(rows, dim=0, return_inverse=True)
    directions = basis.directions.to(distinct.dtype)
    if basis.is_orthonormal:
        return (distinct @ directions.T).double().to_sparse(), distinct, code_of
    atoms, values = matching_pursuit(distinct, directions, k)
    used = atoms >= 0
    row = torch.arange(len(atoms))[:, None].expand_as(atoms)[used]
    where, shape = torch.stack([row, atoms[used]]), (len(atoms), len(basis))
    # said explicitly, or torch warns that it does not check
    codes = torch.sparse_coo_tensor(where, values[used].double(), shape, check_invariants=True)
    return codes.coalesce(), distinct, code_of


def attribute_maps(
    d: Deltas, basis: Basis, *, k: int = 32, site: SiteLike | None = None, nulls: int = 20, seed: int = 0
) -> dict[str, Attribution]:
    """`attribute` for each map of a singular basis on its own: name such as "q.3" -> its share of energy per direction.

    Raises what `attribute` raises.
    """
    return {name: attribute(d, part, k=k, site=site, nulls=nulls, seed=seed) for name, part in basis.split().items()}


@torch.no_grad()
def attribute_encoder(
    d: Deltas, sae: Any, *, site: SiteLike | None = None, nulls: int = 20, seed: int = 0
) -> Attribution:
    """What the encoder of an SAE sees of the deltas: f(h + delta) − f(h) over unit decoder rows, with the rest.

    `sae`: an SAE or `bases.from_sae` of one. The components are W_decᵀ (f(h + delta) − f(h)); the residual is what of
    the delta this misses, or invents. `nulls`: the same of so many deltas turned at random, of the same norms. Raises ConfigError for a basis without an encoder, and what `attribute` raises.
    """
    basis = sae if isinstance(sae, Basis) and sae.sae is not None else from_sae(sae)
    part, sae = _part(d, basis, site), basis.sae
    acts, delta = part.acts[part.touched], part.rows
    directions = basis.directions.double()

    def components(rows: Tensor, which: Tensor) -> Tensor:
        return torch.sparse.mm(_change(sae, acts[which], rows), directions)

    codes = _change(sae, acts, delta)
    beside = against_nulls(components, delta, torch.ones(len(delta)), nulls, seed)
    return _attribution(basis, part, "encoder", None, delta.double(), torch.arange(len(delta)), codes, beside)


def _change(sae: Any, acts: Tensor, delta: Tensor) -> Tensor:
    """f(h + delta) − f(h), sparse float64 [n_tokens d_sae]."""
    where, dtype = getattr(sae, "device", sae.W_dec.device), sae.W_dec.dtype
    pieces = []
    for start in range(0, len(delta), size := max(1, _ENTRIES // len(sae.W_dec))):
        h, plus = (t[start : start + size].to(where, dtype) for t in (acts, acts + delta))
        change = (encode(sae, plus) - encode(sae, h)).double().cpu()
        pieces.append(change.to_sparse())
    return torch.cat(pieces).coalesce()


def _part(d: Deltas, basis: Basis, site: SiteLike | None) -> SiteDeltas:
    if not isinstance(d, Deltas):
        raise ConfigError(f"{type(d).__name__} is no Deltas", "record them: mechsteer.deltas(model, iv, prompts)")
    part = d.at(site)
    if part.values.shape[-1] != basis.d_model:
        raise ShapeError(
            f"the deltas at {part.site} have {part.values.shape[-1]} dimensions, the directions {basis.d_model}",
            "take a basis of the activations at this site",
        )
    made_for = basis.source.get("model_fingerprint")
    if made_for is not None and made_for != d.model_fingerprint:
        raise ModelMismatchError(
            f"the basis was made for the model with fingerprint {made_for}, the deltas come from {d.model_fingerprint}",
            "compute the basis from the model that was steered, with nothing folded in",
        )
    if not bool(torch.isfinite(part.rows).all()):
        raise NonFiniteError(f"a delta at {part.site} is NaN or infinite", "look at the adapter, or lower its coeff")
    return part


def _expressed(part: SiteDeltas, basis: Basis) -> Tensor:
    rows = part.rows
    if basis.norm is None:
        return rows
    if part.resid is None:
        raise ConfigError(
            f"{part.site} does not write into the residual stream: no map reads a norm of it",
            "take directions of the activations at this site",
        )
    h = part.resid[part.touched].double()
    return (basis.norm(h + rows.double()) - basis.norm(h)).to(rows.dtype)


def _attribution(
    basis: Basis,
    part: SiteDeltas,
    reading: Reading,
    k: int | None,
    distinct: Tensor,
    code_of: Tensor,
    codes: Tensor,
    beside: NullExplained | None,
) -> Attribution:
    distinct, codes = distinct.double(), codes.double().coalesce()
    times = torch.bincount(code_of, minlength=len(distinct)).double()
    (row, column), value = codes.indices(), codes.values()
    sums = torch.zeros(2, len(basis), dtype=torch.float64)
    sums[0].index_add_(0, column, value * times[row])
    sums[1].index_add_(0, column, value.square() * times[row])
    coded = Coded(basis.directions, codes, distinct, code_of)
    residuals = distinct - coded.components
    norms, missed = distinct.norm(dim=1), residuals.norm(dim=1)
    total = times @ norms.square()
    return Attribution(
        site=part.site,
        labels=basis.labels,
        source=basis.source,
        singular_values=basis.values,
        reading=reading,
        expressed="delta" if basis.norm is None else "norm(h + delta) − norm(h)",
        k=k,
        n_tokens=len(code_of),
        coefficients=sums[0] / len(code_of),
        energy=sums[1] / total if float(total) > 0 else sums[1],
        explained=float(1 - times @ missed.square() / total),
        residual=float(times @ missed / len(code_of)),
        norm=float(times @ norms / len(code_of)),
        beside_null=beside,
        basis=basis,
        coded=coded,
    )
