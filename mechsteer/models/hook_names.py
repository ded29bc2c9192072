"""Which point a hook's name means: the way back from names to sites, for both model classes, without a model."""

from __future__ import annotations

import re

from mechsteer.errors import UnknownSiteError, closest
from mechsteer.models.bridge import POINT_HOOKS as BRIDGE_HOOKS
from mechsteer.models.hooked import POINT_HOOKS as HOOKED_HOOKS
from mechsteer.models.protocol import POINTS

_NAME = re.compile(r"blocks\.(\d+)\.(.+)")


def _points_by_hook() -> dict[str, tuple[str, ...]]:
    """Name within a block -> the points it may mean, in the order of POINTS: the first is the hook's own."""
    found: dict[str, tuple[str, ...]] = {}
    for point in POINTS:
        for hook in dict.fromkeys((HOOKED_HOOKS[point], BRIDGE_HOOKS[point])):
            found[hook] = (*found.get(hook, ()), point)
    return found | {"mlp.hook_pre": ("gate_out", "up_out")}  # the second where the MLP has no gate


_POINTS = _points_by_hook()
_SHARED = ("ln1.hook_normalized", "ln2.hook_normalized", "mlp.hook_pre")  # of several maps, none of them its own


def point_of(name: str) -> tuple[int, str]:
    """(layer, point) of a hook such as "blocks.3.hook_resid_post".

    Raises UnknownSiteError for a name that is no hook of a block, a hook that is no point, and one that several
    points share.

    >>> point_of("blocks.3.mlp.hook_post")
    (3, 'mlp_post')
    """
    match = _NAME.fullmatch(name)
    if match is None:
        near = closest(name, POINTS)
        raise UnknownSiteError(
            f"{name!r} is no hook of a block",
            f"a point needs its layer: Site(3, {near[0]!r})" if near else "names are like 'blocks.3.hook_resid_post'",
        )
    layer, hook = int(match[1]), match[2]
    if hook in _SHARED:
        raise UnknownSiteError(
            f"{name!r} stands for several points: {list(_POINTS[hook])}",
            f"say which: Site({layer}, {_POINTS[hook][0]!r})",
        )
    if hook not in _POINTS:
        near = [f"blocks.{layer}.{each}" for each in closest(hook, _POINTS)]
        hint = f"closest are {near}" if near else f"points are {list(POINTS)}: Site({layer}, {POINTS[0]!r})"
        raise UnknownSiteError(f"the hook {name!r} is no point of a Site", hint)
    return layer, _POINTS[hook][0]
