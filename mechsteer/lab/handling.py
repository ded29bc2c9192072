"""What all tabs share: errors told in the page, results in frames of their own, the controls of a choice."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mechsteer.errors import ConfigError, MechsteerError
from mechsteer.lab.library import gr
from mechsteer.lab.workbench import NONE, Choice, Workbench
from mechsteer.models.memory import is_out_of_memory
from mechsteer.report import Block, Report, Section, escape
from mechsteer.report.report import framed
from mechsteer.steering.units import UNITS


def in_frame(title: str, blocks: Sequence[Block], sections: Sequence[Section] = (), *, height: str = "34rem") -> str:
    """A page of the report's templates in a sandboxed frame: text of a model can neither run nor load anything."""
    first = [Section(title, blocks)] if blocks else []
    return framed(
        Report(f"The steering lab: {title}", sections=[*first, *sections], bare=True).to_html(), height=height
    )


def told(handler: Callable[..., Any]) -> Callable[..., Any]:
    """A handler, or a generator of one, whose errors are shown in the page; what was typed in stays."""
    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def steps(*args: Any, **kwargs: Any) -> Iterator[Any]:
            with _shown_in_page():
                yield from handler(*args, **kwargs)

        return steps

    @functools.wraps(handler)
    def once(*args: Any, **kwargs: Any) -> Any:
        with _shown_in_page():
            return handler(*args, **kwargs)

    return once


@contextlib.contextmanager
def _shown_in_page() -> Iterator[None]:
    try:
        yield
    except (MechsteerError, MemoryError, RuntimeError) as error:
        if isinstance(error, MechsteerError) or is_out_of_memory(error):
            raise shown(error) from error
        raise


def shown(error: Exception) -> Exception:
    """An error as the page shows it, escaped, until it is closed."""
    if isinstance(error, MechsteerError):
        hint = f" — {error.hint}" if error.hint else ""
        return gr.Error(escape(f"{error.message}{hint}"), duration=None, print_exception=False)
    text = "The model ran out of memory. Write fewer tokens, or start the lab with a smaller model."
    return gr.Error(text, duration=None, print_exception=False)


_UNITS = "raw: of the difference itself; residual: of the residual's norm; kl: nats per token"


@dataclass(frozen=True, kw_only=True)
class Controls:
    """The components of a `Choice`, in the order of `Controls.inputs`."""

    name: Any
    other: Any
    weight: Any
    layer: Any
    strength: Any
    unit: Any

    @property
    def inputs(self) -> list[Any]:
        return [self.name, self.other, self.weight, self.layer, self.strength, self.unit]


def controls(bench: Workbench, *, strength: float = 2.5) -> Controls:
    """Components to choose a concept, an optional second one, a layer and a strength."""
    with gr.Row():
        name = gr.Dropdown(bench.choices(), value=bench.names()[0], label="Concept")
        other = gr.Dropdown([(NONE, NONE), *bench.choices()], value=NONE, label="Second concept (concept arithmetic)")
        weight = gr.Slider(-2, 2, value=-1, step=0.25, label="Weight of the second concept")
    with gr.Row():
        layer = gr.Slider(0, bench.n_layers - 1, value=bench.n_layers // 2, step=1, label="Layer")
        number = gr.Slider(-5, 5, value=strength, step=0.1, label="Strength")
        unit = gr.Radio(list(UNITS), value="raw", label="Unit of strength", info=_UNITS)
    return Controls(name=name, other=other, weight=weight, layer=layer, strength=number, unit=unit)


def choice_of(name: str, other: str, weight: Any, layer: Any, strength: Any, unit: Any) -> Choice:
    """A `Choice` of the values of the controls. Raises ConfigError for a number that is not there."""
    return Choice(
        name=name,
        other=other,
        weight=number(weight, "the weight of the second concept"),
        layer=int(number(layer, "the layer")),
        strength=number(strength, "the strength"),
        unit=unit,
    )


def number(value: Any, what: str, *, least: float = -math.inf, most: float = math.inf) -> float:
    """What stands in a field for numbers. Raises ConfigError for an empty one, and for one outside of its limits."""
    if value is None or not math.isfinite(value):
        raise ConfigError(f"{what} is empty", "give a number")
    if not least <= value <= most:
        raise ConfigError(f"{what} is {value:g}", f"give a number from {least:g} to {most:g}")
    return float(value)


def seed_of(value: Any) -> int:
    """A seed: 0 where the field is empty. Raises ConfigError for one that no generator takes."""
    return 0 if value is None else int(number(value, "the seed", least=0, most=2**31 - 1))


def fresh(bench: Workbench, *, with_none: Sequence[bool]) -> list[Any]:
    """Updates of lists of concepts, which grow while the lab runs."""
    return [gr.Dropdown(choices=[*([(NONE, NONE)] if none else []), *bench.choices()]) for none in with_none]


def files_shown(paths: Sequence[Path]) -> Any:
    """An update of a list of files, which is hidden while there are none."""
    return gr.File(value=[str(path) for path in paths], visible=True)
