"""Features of public autoencoders as directions, by sae_lens' names and by Neuronpedia's; they need a network.

A feature's direction is its row of the decoder: adding it at the autoencoder's site promotes the feature. Without a
network the answer is an error within seconds, not a wait.
"""

from __future__ import annotations

import json
import os
import queue
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import torch

from mechsteer.directions import Direction, from_sae
from mechsteer.errors import ConfigError, DataError, MechsteerError, ModelLoadError
from mechsteer.features.sae import load_release
from mechsteer.models import POINTS
from mechsteer.models.sites import Site

HUB, NEURONPEDIA = "https://huggingface.co", "https://www.neuronpedia.org"
SIGN = "the decoder's row as it is: a coefficient above 0 promotes the feature"
PATIENCE = 4.0  # seconds until somebody must have answered
_LONGEST = 60.0  # seconds for what is then sent
_HOOK = re.compile(r"blocks\.(\d+)\.(?:attn\.|mlp\.)?hook_(\w+)")
_FEATURE = re.compile(r"(?:(?:https?://)?(?:www\.)?neuronpedia\.org/)?([\w.-]+)/([\w.-]+)/(\d+)/?")


def sae_feature(release: str, sae_id: str, index: int) -> Direction:
    """Feature `index` of a public SAE by sae_lens' names: ("gpt2-small-res-jb", "blocks.8.hook_resid_pre", 123).

    Its site is that of the SAE. Raises ModelLoadError where there is no network (within 5 seconds) or no such SAE,
    ShapeError for no such feature, ConfigError where sae_lens is missing.
    """
    if os.environ.get("HF_HUB_OFFLINE", "0") in (
        "",
        "0",
    ):  # else what was downloaded before is used, or refused at once
        _answer(HUB, method="HEAD")
    sae = load_release(release, sae_id)
    metadata: Any = getattr(sae.cfg, "metadata", None)
    hook = getattr(metadata, "hook_name", None) or sae_id
    found = from_sae(sae.W_dec, index, source=f"{release}/{sae_id}")
    return _placed(found, str(hook), f"{sae_id}/{index}", "SAELens")


def neuronpedia_feature(feature: str) -> Direction:
    """A feature by Neuronpedia's name, "gpt2-small/8-res-jb/123" (model/source/index), or the address of its page.

    Taken is the vector that Neuronpedia serves with it; where it serves none, the row of the SAE that it names
    (`sae_feature`). Raises ConfigError for what is no such name, ModelLoadError where there is no network (within 5
    seconds) or no such feature, DataError where Neuronpedia gives neither a vector nor an SAE.
    """
    found = _FEATURE.fullmatch(feature.strip())
    if found is None:
        raise ConfigError(
            f"{feature!r} names no feature", 'write model/source/index, such as "gpt2-small/8-res-jb/123"'
        )
    model, source, index = found.groups()
    name = f"{model}/{source}/{index}"
    raw = _answer(f"{NEURONPEDIA}/api/feature/{name}")
    try:
        data = json.loads(raw)
        told = data.get("source") if isinstance(data.get("source"), dict) else {}
        vector = torch.tensor(data.get("vector") or [], dtype=torch.float32)
        hook, label = data.get("hookName") or told.get("hookName"), data.get("vectorLabel")
        release, sae_id = told.get("saelensRelease"), told.get("saelensSaeId")
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise DataError(
            f"Neuronpedia's answer for {name} cannot be read: {error}", "try the page in a browser"
        ) from error
    if vector.ndim == 1 and len(vector) and bool(vector.isfinite().all()):
        provenance = {"method": "from_sae", "feature": int(index), "source": f"neuronpedia {name}", "label": label}
        return _placed(Direction(vector, provenance), str(hook), name, "Neuronpedia", model)
    if not release or not sae_id:
        raise DataError(
            f"Neuronpedia serves no vector of {name} and names no SAE to take it from",
            "find the SAE in sae_lens' table: mechsteer.sae_feature(release, sae_id, index)",
        )
    return sae_feature(release, sae_id, int(index))


def _placed(direction: Direction, hook: str, name: str, by: str, model: str | None = None) -> Direction:
    """The direction with its site, and what was assumed."""
    match = _HOOK.fullmatch(hook)
    point = None if match is None else {"post": "mlp_post"}.get(match[2], match[2])
    site = Site(int(match[1]), point) if match is not None and point in POINTS else None
    where = f"{site}: {by} names the hook {hook}" if site else f"not known: {by} names the hook {hook}"
    provenance = {**direction.provenance, "name": name, "assumed": {"site": where, "sign": SIGN}}
    if site is not None:
        provenance["site"] = site.to_dict()
    if model is not None:
        provenance["model_hint"] = model
    return Direction(direction.vector, provenance)


def _answer(url: str, *, method: str = "GET") -> bytes:
    """What an address answers. Raises ModelLoadError: nobody there within `PATIENCE`, or an error.

    In a thread, since looking up a name knows no time limit.
    """
    told: queue.Queue[Any] = queue.Queue()
    threading.Thread(target=_ask, args=(url, method, told.put), daemon=True).start()
    try:
        first = told.get(timeout=PATIENCE)
        last = first if isinstance(first, MechsteerError) else told.get(timeout=_LONGEST)
    except queue.Empty:
        last = _no_network(url, "no answer")
    if isinstance(last, MechsteerError):
        raise last
    return last


def _ask(url: str, method: str, tell: Callable[[Any], None]) -> None:
    """Tells None when somebody has answered, then the answer; or an error."""
    try:
        request = urllib.request.Request(url, method=method, headers={"User-Agent": "mechsteer"})
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            tell(None)
            tell(response.read())
    except urllib.error.HTTPError as error:
        if method == "HEAD":  # somebody is there
            tell(None)
            tell(b"")
        else:
            hint = "check the name" if error.code == 404 else "try again later"
            tell(ModelLoadError(f"{url} answers {error.code} {error.reason}", hint))
    except (OSError, ValueError) as error:
        tell(_no_network(url, str(getattr(error, "reason", error))))


def _no_network(url: str, why: str) -> ModelLoadError:
    return ModelLoadError(
        f"{url} cannot be reached ({why})",
        "this needs a network connection; offline, an SAE folder: mechsteer.directions.from_sae(sae.W_dec, feature)",
    )
