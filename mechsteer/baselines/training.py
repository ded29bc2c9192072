"""`train`: rivals of one another, each made from the same pairs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tqdm.auto import tqdm

from mechsteer.adapters.singular import Singular
from mechsteer.baselines.base import Method, Steered
from mechsteer.baselines.bipo import by_preference
from mechsteer.baselines.fine_tuning import by_fine_tuning
from mechsteer.baselines.prefix import by_prompt
from mechsteer.baselines.repeng import by_repeng
from mechsteer.baselines.s_space import by_singular_values
from mechsteer.baselines.setup import Loss, Setup
from mechsteer.baselines.vectors import by_chance, by_means, by_pca
from mechsteer.baselines.with_peft import KINDS, require_peft
from mechsteer.errors import ConfigError, DataError, MechsteerError, MechsteerWarning, closest
from mechsteer.models.modules import map_module
from mechsteer.models.plain import require_plain
from mechsteer.models.sites import Site
from mechsteer.prompts import ContrastivePairs
from mechsteer.steering.singular import DEFAULT_MAPS, adapter_layers, loss_layer, singular_steering
from mechsteer.training.config import FitConfig
from mechsteer.training.fit import fit
from mechsteer.training.objectives.pairs import PairsLike

_DEFAULTS = FitConfig(schedule="one_cycle", epochs=10)


def by_singular_adapter(setup: Setup) -> Method:
    """The singular adapter itself, on the same loss, maps, layers and rank as its rivals."""
    begin = singular_steering(setup.model, setup.maps, setup.layers, rank=setup.rank, seed=setup.seed)
    settings = setup.settings(Singular.default_lr)
    fitted = fit(setup.model, begin, setup.objective(), settings, progress=setup.progress)
    return Steered(setup.label("singular"), setup.model, fitted.steering)


METHODS: dict[str, Callable[[Setup], Method]] = {
    "singular": by_singular_adapter,
    "random": by_chance,
    "mean_difference": by_means,
    "pairwise_pca": by_pca,
    "repeng": by_repeng,
    "s_space": by_singular_values,
    "prompting": by_prompt,
    "bipo": by_preference,
    "full": by_fine_tuning,
    **KINDS,
}


def train(
    model: Any,
    pairs: PairsLike,
    methods: Sequence[str],
    *,
    loss: Loss = "contrastive",
    layers: Sequence[int | float] | None = None,
    maps: Sequence[str] | None = None,
    rank: int = 24,
    config: FitConfig = _DEFAULTS,
    seed: int = 0,
    progress: bool = True,
) -> list[Method]:
    """The methods of METHODS by name, in their order, each made from `pairs` and the seed; a raw bridge stays as it is.

    `loss`: of those that are trained on one, "contrastive" (`Separation`) or "next_token" (each side's own texts); found
    vectors, prompting and BiPO do not ask. `layers`, `maps`: of all (default: those of `singular_steering` that stand alone
    in the architecture). `config.lr` None: each method's own.

    Raises what `check_methods` does, ConfigError for settings, DataError for no pairs, before anything is trained. A method
    that fails is left out, with a MechsteerWarning that says why; where none is left, it is an error.
    """
    check_methods(model, methods)
    if not len(pairs):
        raise DataError("there are no pairs", "pass at least one pair of texts")
    pairs = pairs if isinstance(pairs, ContrastivePairs) else ContrastivePairs(*map(list, zip(*pairs, strict=True)))
    n_layers = model.cfg.n_layers
    found = (
        adapter_layers(n_layers, [loss_layer(n_layers)]) if layers is None else [_index(model, one) for one in layers]
    )
    chosen = tuple(_default_maps(model, found) if maps is None else maps)
    setup = Setup(
        model=model,
        pairs=pairs,
        layers=tuple(found),
        maps=chosen,
        rank=rank,
        loss=loss,
        config=config,
        seed=seed,
        progress=progress,
    )
    made, failed = [], []
    for name in tqdm(methods, desc="methods", unit="method", disable=not progress, leave=False):
        try:
            made.append(METHODS[name](setup))
        except MechsteerError as error:
            failed.append(f"{name}: {error.message}")
            warnings.warn(f"{name} is left out: {error.message}", MechsteerWarning, stacklevel=2)
    if not made:
        raise ConfigError(f"no method could be trained; {'; '.join(failed)}"[:500], "see what each of them says")
    return made


def check_methods(model: Any, methods: Iterable[str]) -> None:
    """Raises ConfigError for no methods, an unknown one, one of PEFT's where it is not installed or has no such method, and
    for those and full fine-tuning where the model is no raw bridge, which alone has a Hugging Face model to put them into.
    """
    names = [methods] if isinstance(methods, str) else list(methods)
    if isinstance(methods, str) or not names:
        raise ConfigError(f"methods are {methods!r:.80}", f"give a list of some of {list(METHODS)}")
    for name in names:
        if name not in METHODS:
            raise ConfigError(
                f"there is no method {name!r}", f"closest are {closest(name, METHODS)}; all: {list(METHODS)}"
            )
    for name in (name for name in names if name in KINDS):
        require_peft()
        KINDS[name].config()
    if any(name in KINDS or name == "full" for name in names):
        require_plain(model)


def _index(model: Any, layer: int | float) -> int:
    return int(Site(layer).at(model).layer)


def _default_maps(model: Any, layers: Sequence[int]) -> list[str]:
    """Those of DEFAULT_MAPS that the model has, each a module of its own."""

    def stands_alone(name: str) -> bool:
        try:
            return all(map_module(model, layer, name) for layer in layers)
        except MechsteerError:
            return False

    found = [name for name in DEFAULT_MAPS if stands_alone(name)]
    if not found:
        raise ConfigError(f"none of {list(DEFAULT_MAPS)} stands alone in this model", "name maps, as o, up and down")
    return found
