"""What damaged files come to: every kind of file that mechsteer writes, damaged by a seed and loaded.

A load that refuses raises a MechsteerError. Anything else must equal what was saved.
"""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import extras
import mutations
import study_toys
import torch
import toy_adapters
import toys
from safetensors.torch import save_file

import mechsteer as ms
from mechsteer.errors import MechsteerError, MechsteerWarning
from mechsteer.features.sae import load_sae, train_sae
from mechsteer.features.sae_files import checked_config, read_metrics
from mechsteer.features.sae_reader import read_sae
from mechsteer.files import digest_of, read_record, write_record
from mechsteer.files.tensors import METADATA, read_safetensors, read_tensors, write_tensors
from mechsteer.results import Interval
from mechsteer.steering.files import read_header
from mechsteer.training.checkpoint import read_checkpoint, write_checkpoint

Damage = Callable[[Path, random.Random], None]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A folder with one thing saved in it, and how everything of it is read, as something that can be compared."""

    folder: Path
    load: Callable[[], Any]

    @property
    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*") if path.is_file())


@dataclass
class Counts:
    """What became of the mutations; `traceback` and `wrong` are to be 0."""

    refused: int = 0
    equal: int = 0
    traceback: int = 0
    wrong: int = 0
    examples: list[str] = field(default_factory=list)  # of the last two, a few

    def note(self, what: str, example: str = "") -> None:
        setattr(self, what, getattr(self, what) + 1)
        if example and len(self.examples) < 5:
            self.examples.append(f"{what}: {example}")

    def __str__(self) -> str:
        return ", ".join(f"{f.name} {getattr(self, f.name)}" for f in dataclasses.fields(self) if f.name != "examples")


def bits(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Dtype, shape and bytes."""
    return (
        tensor.dtype,
        tuple(tensor.shape),
        tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes(),
    )


def plain(value: Any) -> Any:
    """Something whose == is equality of everything in it: NaN equals NaN, 1 is not 1.0."""
    if isinstance(value, dict):
        return [(key, plain(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, torch.Tensor):
        return bits(value)
    return repr(value)


def steering(folder: Path, **told: Any) -> Case:
    """Four interventions, two of which share an adapter and one of which reads at two sites; two observations."""
    model, path = toys.shared("llama"), folder / "adapter.safetensors"
    shared = ms.adapters.Static(toys.vector(1))
    scope = ms.TokenScope.generated(include_last_prompt=True) - ms.TokenScope.token_ids([3])
    watched = [ms.Site(0, "attn_out"), ms.Site(2, "mlp_out")]
    saved = ms.Steering(
        [
            ms.Intervention(shared, ms.Site(1, "resid_post"), coeff=0.3),
            ms.Intervention(shared, ms.Site(2, "attn_out"), scope=scope, coeff=-1.7),
            ms.Intervention(ms.adapters.Static(toys.vector(2)), ms.Site(2, "mlp_out"), read=ms.Site(0, "resid_post")),
            ms.Observation(toy_adapters.Probe(32, 32), watched, ms.TokenScope.prompt()),
            ms.Intervention(toy_adapters.GatedGru(32, 32), ms.Site(2), read=[ms.Site(0), ms.Site(1)]),
            ms.Observation(toy_adapters.Drift(), ms.Site(1)),
        ],
        coeff=0.9,
    )
    ms.save_steering(saved, path, model, provenance={"data": "0f3a", "auroc": 0.75, "licence": None}, **told)

    def load() -> Any:
        loaded = ms.load_steering(path, model)
        modules = [iv.module for iv in loaded.interventions]
        return plain(
            [
                loaded.coeff,
                [modules.index(module) for module in modules],
                [(type(m).__name__, m.config(), dict(m.state_dict())) for m in modules],
                [(type(iv), iv.writes, iv.reads, iv.scope, iv.coeff) for iv in loaded.interventions],
                dataclasses.asdict(read_header(path)),
            ]
        )

    return Case(folder=folder, load=load)


def steering_int8(folder: Path) -> Case:
    """The same, with fewer bits per number and everything that a header may hold."""
    told = {
        "data": {"train": "0f3a"},
        "metrics": {"auroc": Interval(value=0.75, low=0.5, high=1.0)},
        "licence": "MIT",
        "dtype": "int8",
    }
    return steering(folder, **told)


def _capture(folder: Path) -> Any:
    prompts, sites = toys.prompts(5, 9, 3, 8), [ms.Site(0, "resid_post"), ms.Site(1, "z")]
    labels = ["a", None, 2, 0.5]
    return ms.capture(
        toys.shared("llama"), prompts, sites, path=folder, labels=labels, shard_size=14, batch_size=2, progress=False
    )


def _content(store: Any) -> Any:
    kept = [(str(site), [dataclasses.asdict(batch) for batch in acts]) for site, acts in store.items()]
    flat = [list(acts.flat_batches(4)) for acts in store.values()]
    return plain([dataclasses.asdict(store.manifest), kept, flat])


def store(folder: Path) -> Case:
    """An activation store of two sites and two shards."""
    _capture(folder)
    return Case(folder=folder, load=lambda: _content(ms.open_store(folder, model=toys.shared("llama"))))


def capture(folder: Path) -> Case:
    """The same store, captured again: what is damaged is made anew, or refused."""
    _capture(folder)
    return Case(folder=folder, load=lambda: [_content(_capture(folder)), _content(ms.open_store(folder))])


def sae(folder: Path) -> Case:
    """An SAE folder of ours."""
    extras.require_sae_lens()
    data = [torch.randn(100, 8, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    settings = {"d_in": 8, "d_sae": 16, "k": 3, "n_steps": 5, "batch_size": 32, "buffer_size": 128, "progress": False}
    train_sae(data, **settings, out=folder, metadata={"site": "resid_post@1", "model_fingerprint": "0f"})

    def load() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MechsteerWarning)  # a folder may record no site
            loaded = load_sae(folder, site="resid_post@1", fingerprint="0f")
        return plain([loaded.cfg.to_dict(), dict(loaded.state_dict()), read_metrics(folder)])

    return Case(folder=folder, load=load)


def foreign_sae(folder: Path) -> Case:
    """One that sae_lens wrote: no digest, so damage may go unnoticed, but nothing breaks."""
    ours = sae(folder)
    loaded = load_sae(folder)
    for path in ours.files:
        path.unlink()
    loaded.save_model(folder)

    def load() -> Any:
        read = load_sae(folder)
        return plain([read.cfg.to_dict(), dict(read.state_dict())])

    return Case(folder=folder, load=load)


def read_sae_folder(folder: Path) -> Case:
    """The same, read without sae_lens."""
    sizes = {"W_enc": (8, 16), "W_dec": (16, 8), "b_dec": (8,), "b_enc": (16,), "threshold": (16,)}
    weights = {name: torch.randn(*size, generator=torch.Generator().manual_seed(0)) for name, size in sizes.items()}
    config = {"architecture": "jumprelu", "d_in": 8, "d_sae": 16, "dtype": "float32", "apply_b_dec_to_input": True}
    (folder / "cfg.json").write_text(json.dumps(config | {"metadata": {"sae_lens_version": "6.54.12"}}))
    save_file(weights, folder / "sae_weights.safetensors")

    def load() -> Any:
        checked_config(folder)
        read = read_sae(folder)
        return plain([dataclasses.asdict(read.cfg), dict(read.state_dict())])

    return Case(folder=folder, load=load)


def direction(folder: Path) -> Case:
    """A combination of two directions of a model."""
    model, path = toys.shared("llama"), folder / "direction.safetensors"
    v, w = (ms.directions.Direction(toys.vector(i), {"method": f"v{i}", "threshold": 0.5}) for i in (1, 2))
    ms.directions.save_direction(2 * v - w, path, model=model, site=ms.Site(1), metadata={"licence": None})

    def load() -> Any:
        loaded = ms.directions.load_direction(path, model=model)
        return plain([loaded.vector, loaded.provenance, str(loaded.site)])

    return Case(folder=folder, load=load)


def checkpoint(folder: Path) -> Case:
    """A training checkpoint."""
    path = folder / "checkpoint.safetensors"
    write_checkpoint(path, {"a": toys.vector(1), "step": torch.tensor(3.0)}, {"history": [{"loss": 0.5}], "best": None})
    return Case(folder=folder, load=lambda: plain(read_checkpoint(path)))


def records(folder: Path) -> Case:
    """Records, as run folders hold them."""
    write_record(folder / "config.json", {"model": "pocket", "seed": 0, "sites": [1, 2], "scope": {"kind": "all"}})
    write_record(folder / "stages" / "train.json", {"history": [{"loss": 0.25, "text": "ü"}], "best": None, "n": 3})
    names = ("config.json", "stages/train.json")
    return Case(folder=folder, load=lambda: plain([read_record(folder / name) for name in names]))


def run(folder: Path) -> Case:
    """A run folder: its settings, the results of its stages, what they wrote."""
    study_toys.result(folder, [], "seed=3", "suffix= und dann")

    def load() -> Any:
        with study_toys.opened(folder, []) as run:
            return [dataclasses.asdict(run.settings), run.finished(), (folder / "numbers.json").read_text()]

    return Case(folder=folder, load=load)


CASES: dict[str, Callable[[Path], Case]] = {
    "run": run,
    "steering": steering,
    "steering-int8": steering_int8,
    "store": store,
    "capture": capture,
    "records": records,
    "sae": sae,
    "foreign-sae": foreign_sae,
    "foreign-sae-read": read_sae_folder,
    "checkpoint": checkpoint,
    "direction": direction,
}


def damaged(path: Path, rng: random.Random) -> None:
    """Change one file."""
    path.write_bytes(mutations.mutated(rng, path.read_bytes()))


def forged(path: Path, rng: random.Random) -> None:
    """Change what a file says, under a digest that fits it: the schema alone is left to refuse it."""
    text = _metadata(path).get(METADATA, "{}") if path.suffix == ".safetensors" else path.read_text("utf-8")
    data = json.loads(text)
    before = {key: data.pop(key, None) for key in ("digest", "kind")}
    new = mutations.edited_json(rng, data)
    if not isinstance(new, dict) or new.keys() & before.keys():
        return
    if path.name == "cfg.json":
        weights = path.with_name("sae_weights.safetensors")
        found = read_tensors(weights, kind="SAE")
        assert found is not None
        write_tensors(weights, found[0], {"config": digest_of(new)}, kind="SAE")
        path.write_text(json.dumps(new))
    elif before["kind"] is not None:
        found = read_tensors(path, kind=before["kind"])
        assert found is not None
        write_tensors(path, found[0], new, kind=before["kind"])
    elif path.suffix == ".json":
        write_record(path, new)


def _metadata(path: Path) -> dict[str, str]:
    found = read_safetensors(path, kind="file")
    assert found is not None
    return found[1]


def outcomes(case: Case, n: int, seed: int, damage: Damage = damaged) -> Iterator[tuple[str, str]]:
    """What became of each of `n` damaged copies: "refused", "equal", "traceback" or "wrong", and an example."""
    saved = {path: path.read_bytes() for path in case.files}
    expected = case.load()
    assert expected == case.load()
    for number in range(n):
        rng = random.Random(f"{seed}/{number}")
        path = rng.choice(list(saved))
        damage(path, rng)
        try:
            what, example = ("equal", "") if case.load() == expected else ("wrong", f"{number} {path.name}")
        except MechsteerError:
            what, example = "refused", ""
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001  # a panic of a library in Rust is no Exception
            what, example = "traceback", f"{number} {path.name}\n{traceback.format_exc()}"
        yield what, example
        for left in case.files:
            if left not in saved:
                left.unlink()
        for kept, data in saved.items():
            if not kept.exists() or kept.read_bytes() != data:
                kept.write_bytes(data)


def counted(name: str, folder: Path, n: int, seed: int, damage: Damage = damaged) -> Counts:
    """The counts of `n` damaged copies of a case, which is made in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = Counts()
    for what, example in outcomes(CASES[name](folder), n, seed, damage):
        counts.note(what, example)
    shutil.rmtree(folder)
    return counts
