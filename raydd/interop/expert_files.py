"""Experts in files of other projects: MTT's replay buffers, TGDD's checkpoints. Code in them is never run."""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from raydd.config.names import check_name
from raydd.config.parsing import Tree
from raydd.interop.torchfile import describe_value, load
from raydd.numerics.flat import layout_of, running_statistics

_WRAPPERS = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile

EXACT = (torch.float32, torch.float16, torch.bfloat16)
"""Types that float32 holds without rounding."""
MODULES = re.compile(
    r"features\.\d+|classifier|fc|fc_[123]|linear|"  # the DC family's ConvNet, MLP, LeNet, AlexNet, VGG11
    r"layers\.(conv|norm)\.\d+|"  # IDC's ConvNet
    r"(layer0\.)?(conv1|bn1)|layer[1-4]\.\d+\.(conv[12]|bn[12]|(shortcut|downsample)\.[01])|"  # ResNets
    r"dense[1-4]\.\d+\.(bn|conv)[12]|trans[1-3]\.(bn|conv)|bn"  # DenseNet
)
"""Layers of the networks that compute the same as ours, in the same order of layers."""
_IDC = re.compile(r"layers\.(?P<kind>conv|norm)\.(?P<block>\d+)")
Snapshot = dict[str, Tensor]
"""Parameters and running statistics by our names."""

Source = tuple[Path, ...]
"""Files that are read together: one of many experts, or one expert's."""


class Target:
    """The network that experts are of: a name of `raydd.NETWORKS`, and the network with any weights."""

    def __init__(self, name: str, network: nn.Module) -> None:
        self.name, self.network = name, network
        self.layout = layout_of(dict(network.named_parameters()))  # of theta (P,)
        self.buffer_layout = layout_of(running_statistics(network))  # empty without BatchNorm
        state = network.state_dict()  # parameters and running statistics, layer by layer
        self.shapes = {name: tuple(value.shape) for name, value in state.items() if value.is_floating_point()}


class ForeignExpert(NamedTuple):
    """One expert in other files."""

    place: str  # the files and the number, for errors
    epochs: int  # the epoch of its last snapshot, K
    snapshot: Callable[[int], Snapshot]  # reads the snapshot after an epoch


class Match(NamedTuple):
    """One file: the number of its folder, the match of its name, its path."""

    folder: int
    name: re.Match[str]
    path: Path


class Format(NamedTuple):
    """One project's files."""

    files: str
    pattern: re.Pattern[str]  # the same as a regular expression
    sources: Callable[[Sequence[Match]], list[Source]]  # sorts files in the experts' order
    read: Callable[[Source, Target], list[ForeignExpert]]  # checks what needs no reading of all numbers
    recipe: Callable[[int], Tree]  # the project's default training of experts of K epochs
    ask: str = ""  # the error if the user gives no preprocessing; empty if the project has only normalise


def find_experts(paths: Sequence[Path], layout: str | None = None) -> tuple[str, list[Source]]:
    """Return the format of files of experts, a key of `FORMATS`, and the files in the experts' order.

    The order is folder by folder as given, in each by number. Gaps, files of two formats and of
    several sets are refused.
    """
    if layout is not None:
        check_name("expert layout", layout)
    for path in paths:
        if not path.exists():
            raise ValueError(f"{path} does not exist: name a folder of experts or such files")
    rows = {name: row for name, row in FORMATS.items() if layout in (None, name)}
    matches = {name: files for name, row in rows.items() if (files := _matches(paths, row.pattern))}
    if len(matches) > 1:
        raise ValueError(f"{paths[0]} holds files of {' and of '.join(matches)}: choose with --format")
    for path in paths:
        if not any(_matches([path], row.pattern) for row in rows.values()):
            words = " or ".join(row.files for row in rows.values())
            raise ValueError(f"{path} {'holds' if path.is_dir() else 'is'} no {words}: name a folder of experts")
    ((name, files),) = matches.items()
    return name, FORMATS[name].sources(files)


def _matches(paths: Sequence[Path], pattern: re.Pattern[str]) -> list[Match]:
    folders: dict[Path, int] = {}
    matches: dict[tuple[int, str], Match] = {}
    for path in paths:
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            if (name := pattern.fullmatch(file.name)) and file.is_file():
                folder = folders.setdefault(file.parent.resolve(), len(folders))
                matches[folder, file.name] = Match(folder, name, file)
    return list(matches.values())


def _by_number(matches: Sequence[Match], *groups: str) -> dict[tuple[int, ...], Path]:
    """Return files by folder and the numbers in their names, ascending; refuse two of the same numbers."""
    files: dict[tuple[int, ...], Path] = {}
    for one in matches:
        key = (one.folder, *(int(one.name[group]) for group in groups))
        if key in files:
            raise ValueError(f"{files[key]} and {one.path.name} have the same number: rename or leave out one of them")
        files[key] = one.path
    return dict(sorted(files.items()))


def _checkpoints(matches: Sequence[Match]) -> list[Source]:
    names = sorted({one.name["name"] for one in matches})
    if len(names) > 1:
        raise ValueError(
            f"{matches[0].path.parent} holds experts of {names[0]!r} and {names[1]!r}: name one set's files"
        )
    experts: dict[tuple[int, ...], dict[int, Path]] = {}
    for (*expert, epoch), path in _by_number(matches, "expert", "epoch").items():
        experts.setdefault(tuple(expert), {})[epoch] = path
    last = max(max(epochs) for epochs in experts.values())
    for epochs in experts.values():
        for epoch in range(last + 1):
            if epoch not in epochs:
                some = next(iter(epochs.values()))
                path = some.with_name(re.sub(r"(_epoch_?)\d+(?=\.pth\.tar)", rf"\g<1>{epoch}", some.name))
                what = f"experts need a checkpoint of each epoch from 0 to {last}"
                raise ValueError(f"{path} is missing, {what}: copy it, or leave out that expert's files")
    return [tuple(epochs.values()) for epochs in experts.values()]


def load_mapped(path: Path) -> Any:
    """Load a file as `raydd.interop.torchfile.load` does; tensors stay in it until they are read, if it is a zip."""
    from torch.utils.serialization import config

    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    with config.patch("load.mmap", zipped):  # type: ignore[attr-defined]
        return load(path)


def _read_replay(source: Source, target: Target) -> list[ForeignExpert]:
    (path,) = source
    if target.buffer_layout:
        what = f"{target.name} has BatchNorm, whose running statistics {path.name} does not hold"
        raise ValueError(f"{path}: {what}; train such experts with `raydd experts`")
    experts = _sequence(load_mapped(path), str(path), "experts")
    return [_read_trajectory(f"{path}, expert {index}", value, target) for index, value in enumerate(experts)]


def _read_trajectory(place: str, value: Any, target: Target) -> ForeignExpert:
    snapshots = _sequence(value, place, "snapshots")
    for epoch, snapshot in enumerate(snapshots):
        _check_order(_sequence(snapshot, f"{place}, epoch {epoch}", "tensors"), f"{place}, epoch {epoch}", target)
    names = [slot.name for slot in target.layout]
    return ForeignExpert(place, len(snapshots) - 1, lambda epoch: dict(zip(names, snapshots[epoch], strict=True)))


def _sequence(value: Any, place: str, what: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(
            f"{place} holds {describe_value(value)} where a list of {what} is expected: save experts as MTT does"
        )
    return value


def _check_order(tensors: Sequence[Any], place: str, target: Target) -> None:
    """Compare tensors without names with the network's parameters, in order."""
    for slot, tensor in zip(target.layout, tensors, strict=False):
        check_tensor(tensor, slot.shape, f"{place}: {slot.name}", target)
    if (count := len(tensors)) != len(target.layout):
        ends = f" and ends before {target.layout[count].name}" if count < len(target.layout) else ""
        what = f"holds {count} tensors{ends}, and {target.name} has {len(target.layout)} parameters"
        raise ValueError(f"{place} {what}; name the right --network")


def _read_checkpoints(source: Source, target: Target) -> list[ForeignExpert]:
    place = re.sub(r"_epoch_?\d+\.pth\.tar$", "", str(source[0]))
    _snapshot(source, target, 0)  # another network is refused before anything is written
    return [ForeignExpert(place, len(source) - 1, partial(_snapshot, source, target))]


def _snapshot(source: Source, target: Target, epoch: int) -> Snapshot:
    place = str(source[epoch])
    state = load_mapped(source[epoch])
    while isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not any(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{place} holds {describe_value(state)} where a state_dict is expected: save that")
    state = {str(name): value for name, value in state.items() if not str(name).endswith("num_batches_tracked")}
    for wrapper in _WRAPPERS:
        if all(name.startswith(wrapper) for name in state):
            state = {name.removeprefix(wrapper): value for name, value in state.items()}
    same = state.keys() == target.shapes.keys()
    names = {name: name for name in target.shapes} if same else by_layer(list(state), target, place)
    for own, theirs in names.items():
        check_tensor(state[theirs], target.shapes[own], f"{place}: {theirs} ({own})", target)
    return {own: state[theirs] for own, theirs in names.items()}


def check_tensor(tensor: Any, shape: tuple[int, ...], place: str, target: Target) -> None:
    """Refuse a value that is not a tensor of a shape and of numbers that float32 holds."""
    plain = isinstance(tensor, Tensor) and tensor.layout == torch.strided and not tensor.is_meta
    if not plain or tensor.dtype not in EXACT:
        kind = f", {tensor.dtype}" if isinstance(tensor, Tensor) else ""
        raise ValueError(f"{place} is {describe_value(tensor)}{kind}; save experts as plain tensors of float32")
    if tuple(tensor.shape) != shape:
        what = f"has shape {tuple(tensor.shape)}, and {shape} in {target.name}"
        raise ValueError(f"{place} {what}; name the right --network and --dataset")


def by_layer(names: Sequence[str], target: Target, place: str = "the checkpoint") -> dict[str, str]:
    """Return their name of each of our tensors: layers in order, and equal last names in each.

    IDC's ConvNet lists all convolutions before all norms; they are put back in the order of the blocks.
    """
    theirs, ours = _layers(names), _layers(target.shapes)
    for layer in theirs:
        if not MODULES.fullmatch(layer):
            known = "MTT's and IDC's ConvNet, MLP, LeNet, AlexNet, VGG11, ResNet, DenseNet are known"
            raise ValueError(f"{place}: {layer!r} is a layer of no network that is one of ours; {known}")
    ordered = sorted(theirs, key=_block)
    if [theirs[layer].keys() for layer in ordered] != [tensors.keys() for tensors in ours.values()]:
        layers = f"{len(theirs)} layers from {ordered[0]} to {ordered[-1]}"
        raise ValueError(f"{place}: {layers} are not the {len(ours)} layers of {target.name}; name the right --network")
    pairs = zip(ours.values(), (theirs[layer] for layer in ordered), strict=True)
    return {own[last]: their[last] for own, their in pairs for last in own}


def _layers(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return full names by layer and last name."""
    layers: dict[str, dict[str, str]] = {}
    for name in names:
        layer, _, last = name.rpartition(".")
        layers.setdefault(layer, {})[last] = name
    return layers


def _block(layer: str) -> tuple[int, int, str]:
    match = _IDC.fullmatch(layer)
    return (0, int(match["block"]), match["kind"]) if match else (1, 0, "")  # equal keys keep their order


def _mtt_recipe(epochs: int) -> Tree:
    experts = {"optimizer": "sgd", "lr": 0.01, "weight_decay": 0.0, "batch_size": 256, "milestones": ()}
    return {"data": {"augment": "dsa"}, "experts": experts}


def _tgdd_recipe(epochs: int) -> Tree:
    milestones = tuple(sorted({epoch for epoch in (2 * epochs // 3, 5 * epochs // 6) if epoch}))
    experts = {"optimizer": "momentum", "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "batch_size": 64}
    return {"data": {"augment": "dsa_idc"}, "experts": experts | {"milestones": milestones, "gamma": 0.2}}


FORMATS: dict[str, Format] = {
    "mtt": Format(
        files="replay_buffer_<n>.pt",
        pattern=re.compile(r"replay_buffer_(?P<file>\d+)\.pt"),
        sources=lambda files: [(path,) for path in _by_number(files, "file").values()],
        read=_read_replay,
        recipe=_mtt_recipe,
        ask="replay buffers do not say how images were preprocessed: give --preprocessing zca (of --zca; a folder of "
        "CIFAR without _NO_ZCA in its name) or --preprocessing normalise",
    ),
    "tgdd": Format(
        files="<name>_premodel<n>_epoch<e>.pth.tar",
        pattern=re.compile(r"(?P<name>.*?)_?premodel_?(?P<expert>\d+)_epoch_?(?P<epoch>\d+)\.pth\.tar"),
        sources=_checkpoints,
        read=_read_checkpoints,
        recipe=_tgdd_recipe,
    ),
}
