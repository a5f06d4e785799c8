"""A checkpoint of Kokoro, read from local files, checked, and put on a device.

    config.json ─> the model without weights ─┐
    *.pth ────────> tensors ──────────────────┴─> do they fit? ─> the model
    voices/*.pt ──> tensors ───> are they voices? ─> on the device

Kokoro's own loader takes whatever fits and is silent about the rest, so the fitting is done here: a tensor
that is missing, foreign or of another shape is refused by its name.
"""

from __future__ import annotations

import io
import json
import pickle
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from kokoro import KModel

from shared.errors import EngineError

NAMED = 3
"""How many tensors an error names of each kind."""

_PREFIX = "module."
"""What the names in the released weights begin with, which were trained on several devices."""

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`model` is a `KModel` that is only good for inference; `voices` by name, each (`phonemes`, 1, style).

    `phonemes`: the most that the model takes at once; a voice has a row for each number of them.
    """

    model: Any
    vocabulary: frozenset[str]
    phonemes: int
    voices: Mapping[str, torch.Tensor]
    device: torch.device


def device_of(setting: str) -> torch.device:
    """The device that `DEVICE` (auto, cpu or cuda) means. Raises `EngineError` where there is none."""
    found = torch.cuda.is_available()
    if setting == "cuda" and not found:
        raise EngineError(
            "DEVICE is cuda, and torch finds no CUDA device: install its CUDA build, or set cpu"
        )
    return torch.device("cuda" if found and setting != "cpu" else "cpu")


def described(device: torch.device) -> str:
    """The device as a person knows it."""
    return str(torch.cuda.get_device_name(device)) if device.type == "cuda" else "CPU"


def load(folder: Path, device: torch.device) -> Checkpoint:
    """Read everything in `folder`. Raises `EngineError`: which file, and what is wrong with it."""
    config = _config(folder / "config.json")
    weights = _the_weights(folder)
    parts = _parts(weights)
    phonemes = config["plbert"]["max_position_embeddings"] - 2  # a boundary at either end
    shape = (phonemes, 1, 2 * config["style_dim"])
    voices = {path.stem: _voice(path, shape, device) for path in sorted(folder.glob("voices/*.pt"))}
    if not voices:
        raise EngineError(f"{folder / 'voices'} holds no voice (*.pt)")
    model = _empty_model(folder / "config.json", config)
    _fill(model, parts, weights)
    model.eval().requires_grad_(False).to(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # what was copied on this stream is read on others
    return Checkpoint(model, frozenset(model.vocab), phonemes, voices, device)


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EngineError(f"{path} cannot be read: {error}") from error
    missing = [
        key for key in ("vocab", "plbert", "style_dim") if not isinstance(config, dict) or key not in config
    ]
    if missing:
        raise EngineError(f"{path} is no configuration of Kokoro: it has no {', '.join(missing)}")
    return dict(config)


def _empty_model(path: Path, config: dict[str, Any]) -> Any:
    """A model as it is before it is loaded: given no tensors, it leaves those that it was made with."""
    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    try:
        with warnings.catch_warnings():  # it is built of parts that torch has newer ones for
            warnings.simplefilter("ignore")
            return KModel(repo_id="local", config=config, model=nothing)
    except KeyError as error:
        raise EngineError(f"{path} is no configuration of Kokoro: it has no {error}") from error
    except (TypeError, ValueError, RuntimeError, AttributeError, AssertionError) as error:
        raise EngineError(f"{path} is no configuration of Kokoro: {error}") from error


def _the_weights(folder: Path) -> Path:
    paths = sorted(folder.glob("*.pth"))
    if len(paths) != 1:
        found = ", ".join(path.name for path in paths) or "none"
        raise EngineError(f"{folder} should hold the weights in one file *.pth; found: {found}")
    return paths[0]


def _parts(path: Path) -> dict[str, Tensors]:
    """The weights: for each part of the model its tensors by name."""
    parts = _read(path)
    if not isinstance(parts, dict) or not all(isinstance(part, dict) for part in parts.values()):
        raise EngineError(f"{path} holds no weights of Kokoro: tensors by part and name were expected")
    return parts


def _fill(model: Any, parts: dict[str, Tensors], path: Path) -> None:
    """Put the weights in. Raises `EngineError` where they are not exactly the model's."""
    modules = dict(model.named_children())
    foreign, missing, misshapen = [str(part) for part in parts if part not in modules], [], []
    filling: list[tuple[Any, Tensors]] = []
    for part, module in modules.items():
        given = {str(name).removeprefix(_PREFIX): tensor for name, tensor in parts.get(part, {}).items()}
        wanted, optional, own = module.state_dict(), _untrained(module), dict(module.named_buffers())
        missing += [f"{part}.{name}" for name in wanted if name not in given and name not in optional]
        for name, tensor in given.items():
            place = wanted.get(name, own.get(name))
            if place is None or not isinstance(tensor, torch.Tensor):
                foreign.append(f"{part}.{name}")
            elif tensor.shape != place.shape:
                misshapen.append(f"{part}.{name} {tuple(tensor.shape)} for {tuple(place.shape)}")
        filling.append((module, given))
    wrong = {"missing": missing, "foreign": foreign, "of another shape": misshapen}
    if any(wrong.values()):
        says = "; ".join(f"{kind}: {_some(names)}" for kind, names in wrong.items() if names)
        raise EngineError(f"{path} does not fit its config.json: {says}")
    for module, given in filling:
        module.load_state_dict(given, strict=False)  # a buffer that the model makes by itself is left out
    for layer in model.modules():
        if hasattr(layer, "weight_g"):  # else the product is made anew for every text
            torch.nn.utils.remove_weight_norm(layer)


def _untrained(module: Any) -> set[str]:
    """What weights may leave out: the scale and shift of adaptive norms, which are 1 and 0.

    They were trained without any; the classes have them for an exporter's sake.
    """
    norms = [name for name, layer in module.named_modules() if isinstance(layer, torch.nn.InstanceNorm1d)]
    return {f"{norm}.{leaf}" for norm in norms for leaf in ("weight", "bias")}


def _voice(path: Path, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    tensor = _read(path)
    found = tuple(tensor.shape) if isinstance(tensor, torch.Tensor) else type(tensor).__name__
    if found != shape:
        raise EngineError(
            f"{path} is no voice of this checkpoint: {shape} was expected, and it holds {found}"
        )
    if not torch.isfinite(tensor).all():
        raise EngineError(f"{path} is no voice: not all of it are numbers")
    return tensor.to(device, torch.float32)


def _read(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise EngineError(f"{path} cannot be read as tensors: {reason}") from error


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
