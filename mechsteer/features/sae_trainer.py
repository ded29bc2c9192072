"""sae_lens' trainer of one recipe: built, looked at between steps, and turned into an SAE on raw activations.

Held-out rows are encoded as the trainer encodes: a BatchTopK SAE, whose threshold is set when it is finished, takes the
largest pre-activations of each batch of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mechsteer.errors import ConfigError, NonFiniteError, closest
from mechsteer.features import sae_library as lens
from mechsteer.features.encoding import N_EVALUATION
from mechsteer.features.shuffling import first_rows
from mechsteer.features.streams import Batches


def sae_trainer(recipe: Mapping[str, Any], b_dec: Tensor, device: str) -> lens.SAETrainer[Any, Any]:
    """A trainer whose decoder bias is `b_dec` [d_in]; batches are handed to its step() one by one."""
    steps, batch_size, lr = recipe["n_steps"], recipe["batch_size"], recipe["lr"]
    sae = _training_sae(recipe, device)
    sae.b_dec.data.copy_(b_dec)
    config = lens.SAETrainerConfig(
        total_training_samples=steps * batch_size,
        train_batch_size_samples=batch_size,
        lr=lr,
        lr_end=lr / 10,  # None trips an assertion of SAETrainer
        lr_warm_up_steps=steps // 20,
        lr_decay_steps=steps // 4,
        dead_feature_window=max(10, steps // 20),
        device=device,
        logger=lens.LoggingConfig(log_to_wandb=False),
    )

    return lens.SAETrainer(config, sae, iter(()))  # no provider: batches are handed to step() one by one


def _training_sae(recipe: Mapping[str, Any], device: str) -> lens.TrainingSAE[Any]:
    architecture, k, width = recipe["architecture"], recipe["k"], recipe["d_sae"]
    settings: dict[str, Any] = {"d_in": recipe["d_in"], "d_sae": width, "device": device}
    if architecture in ("topk", "batchtopk", "matryoshka"):
        settings["k"] = k
    if architecture == "matryoshka":
        settings["matryoshka_widths"] = sorted({max(1, width // part) for part in (8, 4, 2, 1)})
    if architecture == "jumprelu":
        settings |= {"jumprelu_sparsity_loss_mode": "quadratic", "target_l0": k}
        settings["l0_warm_up_steps"] = recipe["n_steps"] // 10
    name = "matryoshka_batchtopk" if architecture == "matryoshka" else architecture
    sae_class, config_class = lens.get_sae_training_class(name)
    known = config_class.__dataclass_fields__
    for option in recipe["options"]:
        if option not in known:
            raise ConfigError(
                f"unknown option {option!r} of a {architecture} SAE", f"closest: {closest(option, known)}"
            )
    cuda = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(recipe["seed"])
        return sae_class(config_class(**settings | recipe["options"]))


def logged(trainer: lens.SAETrainer[Any, Any], output: Any) -> dict[str, float]:
    """The figures of the step just taken. Raises NonFiniteError where the loss is none."""
    loss = float(output.loss.detach())
    if not math.isfinite(loss):
        raise NonFiniteError(
            f"the loss became {loss} at step {trainer.n_training_steps}", "use a smaller learning rate"
        )
    with torch.no_grad():
        x = output.sae_in
        fvu, error = _ratio((x - output.sae_out).square().sum(-1), (x - x.mean(0)).square().sum(-1))
        return {
            "step": trainer.n_training_steps,
            "loss": loss,
            "fvu": fvu,
            "fvu_error": error,
            "l0": float((output.feature_acts > 0).float().sum(-1).mean()),
            "not_fired_lately": float(trainer.dead_neurons.float().mean()),
        }


def _ratio(above: Tensor, below: Tensor) -> tuple[float, float]:
    """Σ above / Σ below [n], and its standard error over rows taken as independent (linearised); nan where there is none.

    As of any ratio of sums: Cochran, Sampling Techniques, section 6.3.
    """
    total, n = float(below.double().sum()), len(below)
    if not total > 0:
        return math.nan, math.nan
    ratio = float(above.double().sum()) / total
    apart = float((above.double() - ratio * below.double()).square().sum())
    return ratio, math.sqrt(apart * n / (n - 1)) / total if n > 1 else math.nan


@torch.no_grad()
def held_out(trainer: lens.SAETrainer[Any, Any], rows: Tensor) -> dict[str, float]:
    """L0, FVU with its standard error, and the share of dead features on raw activations [n d_in] that are not trained on."""
    n_active, errors, d_sae = 0, [], trainer.sae.cfg.d_sae
    fired = torch.zeros(d_sae, dtype=torch.bool, device=trainer.sae.device)
    scaled = trainer.activation_scaler(rows.to(trainer.sae.device))
    for x in scaled.split(trainer.cfg.train_batch_size_samples):
        acts = trainer.sae.encode(x)
        errors.append((x - trainer.sae.decode(acts)).double().square().sum(-1))
        active = (acts.to_dense() if acts.is_sparse else acts) > 0
        fired |= active.any(0)
        n_active += int(active.sum())
    fvu, error = _ratio(torch.cat(errors), (scaled - scaled.mean(0)).double().square().sum(-1))
    return {
        "held_out_fvu": fvu,
        "held_out_fvu_error": error,
        "held_out_l0": n_active / len(rows),
        "held_out_dead_share": 1 - float(fired.double().mean()),
    }


@torch.no_grad()
def calibrate_threshold(sae: lens.BatchTopKTrainingSAE, batches: Batches, k: int) -> None:
    """Sets the inference threshold to the one at which L0 is k on the data.

    sae_lens' running estimate starts at 0 and is far too low after a short training.
    """
    largest, n = [], 0
    for x in first_rows(batches, sae.cfg.d_in, N_EVALUATION):
        pre = sae.encode_with_hidden_pre(x.to(sae.device))[1].relu().flatten()
        largest.append(pre.topk(min(4 * k * len(x), len(pre))).values)
        n += len(x)
    ranked = torch.cat(largest).sort(descending=True).values
    between = ranked[k * n - 1 : k * n + 1]  # the last that shall fire and the first that shall not
    sae.topk_threshold = between.double().mean()


def inference(trained: lens.TrainingSAE[Any], metadata: Mapping[str, Any]) -> lens.SAE[Any]:
    """The SAE that was trained, for inference."""
    # Cloned: sae_lens folds the decoder norms into the very tensors it is given.
    state = {name: value.detach().clone() for name, value in trained.state_dict().items()}
    trained.process_state_dict_for_saving_inference(state)
    config = trained.cfg.get_inference_sae_cfg_dict()
    config["metadata"] = {**config["metadata"], **metadata}
    with torch.random.fork_rng(devices=[]):  # its random initial weights are replaced at once
        sae: lens.SAE[Any] = lens.SAE.from_dict(config)
    sae.load_state_dict(state)
    if not isinstance(trained, lens.TopKTrainingSAE):  # whose state has its norms folded already
        sae.fold_W_dec_norm()
    return frozen(sae)


def frozen(sae: lens.SAE[Any]) -> lens.SAE[Any]:
    """In eval mode, its weights frozen."""
    return sae.eval().requires_grad_(False)
