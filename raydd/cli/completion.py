"""What the shell completes: the values of flags.

They are listed here as words, since a press of a key shall not load torch: tests hold every list against what it
names, so a new method, data set or network is a word here too. Presets and spaces are looked up by their files.
"""

import inspect
from collections.abc import Callable, Iterable

import typer

METHODS = (
    *("mtt", "ftd", "tesla", "datm", "dpd", "ast", "mct"),
    *("dc", "dsa", "dm", "tgdd", "dance", "idm", "m3d"),
    *("random", "kmeans", "herding", "kcenter", "forgetting"),
)
DATASETS = (
    *("digits", "mnist", "fashion_mnist", "svhn", "cifar10", "cifar100", "tiny_imagenet"),
    *("imagenet_nette", "imagenet_woof", "imagenet_fruit", "imagenet_meow", "imagenet_squawk", "imagenet_yellow"),
)
NETWORKS = (
    *("ConvNet", "MLP", "LeNet", "AlexNet", "VGG11", "VGG11BN", "ResNet10", "ResNet10BN", "ResNet18", "ResNet18BN"),
    *("DenseNet121", "ConvNetW32", "ConvNetD4", "timm:"),
)
ARCHITECTURES = ("convnet720", "nasbench201")
PROTOCOLS = ("mtt", "datm", "ast", "dm", "dcbench", "tgdd")
LAYOUTS = ("dcbench", "datm", "mtt", "ddranking", "tgdd", "dc", "hf", "png")
EXPERT_LAYOUTS = ("mtt", "tgdd")
OPTIMIZERS = ("sgd", "momentum", "gsam", "smooth")
PREPROCESSING = ("normalise", "zca", "raw01")
CORESETS = ("random", "kmeans", "herding", "kcenter", "forgetting")
SCORES = ("lrs", "ars", "hlr", "ior")
ABLATIONS = ("tgdd", "ast")

Words = Callable[[], Iterable[str]]


def presets() -> Iterable[str]:
    """The shipped presets, as ``--preset`` takes them."""
    from importlib import resources

    folders = (folder for folder in (resources.files("raydd") / "presets").iterdir() if folder.is_dir())
    return (f"{folder.name}/{file.name[:-5]}" for folder in folders for file in folder.iterdir())


def spaces() -> Iterable[str]:
    """The shipped search spaces; in a source tree they lie beside the package."""
    from importlib import resources
    from pathlib import Path

    package = Path(str(resources.files("raydd")))
    folder = next(place for place in (package, package.parent) if (place / "tune_spaces").is_dir()) / "tune_spaces"
    return (path.stem for path in folder.glob("*.yaml"))


def _of(*words: str) -> Words:
    return lambda: words


VALUES: dict[str, Words] = {
    "method": _of(*METHODS),
    "ablate method": _of(*ABLATIONS),
    "dataset": _of(*DATASETS),
    "datasets name": _of(*DATASETS),
    "network": _of(*NETWORKS),
    "nets": _of(*NETWORKS),
    "preset": presets,
    "tune space": spaces,
    "nas space": _of(*ARCHITECTURES),
    "protocol": _of(*PROTOCOLS),
    "format": _of(*LAYOUTS),
    "buffer import format": _of(*EXPERT_LAYOUTS),
    "optimizer": _of(*OPTIMIZERS),
    "preprocessing": _of(*PREPROCESSING),
    "baselines": _of(*CORESETS, "none"),
    "scores": _of(*SCORES),
    "device": _of("auto", "cpu", "cuda"),
    "window": _of("auto"),
    "test": _of("welch", "bootstrap"),
    "split": _of("validation", "test"),
}
"""By parameter, or by command and parameter where commands differ."""

LISTS = {"nets", "baselines", "scores"}
"""Parameters that take several words with commas."""


def offered(words: Iterable[str], incomplete: str, several: bool) -> list[str]:
    """The words that go on with what was typed; of several with commas, the last one.

    >>> offered(["MLP", "LeNet", "AlexNet"], "MLP,L", True)
    ['MLP,LeNet']
    """
    done, comma, last = incomplete.rpartition(",") if several else ("", "", incomplete)
    known = done.split(",")
    return sorted(f"{done}{comma}{word}" for word in words if word.startswith(last) and word not in known)


def complete_values(app: typer.Typer, path: str = "") -> None:
    """Tell an application's parameters what they complete to."""
    for command in app.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__
        for parameter in inspect.signature(command.callback).parameters.values():
            words = VALUES.get(f"{path}{name} {parameter.name}") or VALUES.get(parameter.name)
            for info in getattr(parameter.annotation, "__metadata__", ()):
                if words is not None and isinstance(info, typer.models.ParameterInfo):
                    info.autocompletion = _completer(words, parameter.name in LISTS)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            complete_values(group.typer_instance, f"{path}{group.name} " if isinstance(group.name, str) else path)


def _completer(words: Words, several: bool) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return offered(words(), incomplete, several)

    return complete
