"""What a run is: frozen, validated configurations, from presets, YAML and ``--set a.b=c``."""

import difflib
import json
import shlex
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Backprop = Literal["full", "adjoint", "truncated"]
Preprocessing = Literal["normalise", "zca", "raw01"]
AugmentName = Literal["none", "dsa", "dsa_idc"]


class Config(BaseModel):
    """A frozen configuration that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataConfig(Config):
    """Which images, and how they reach a network.

    Attributes:
        dataset: A registered name or a path.
        size: Side in pixels that images of a path are resized to; None keeps theirs.
        validation: Fraction of the training set held out for honest selection.
        preprocessing: normalise (mean and standard deviation), zca or raw01.
        augment: Augmentation of experts, students and evaluation.
    """

    dataset: str = "digits"
    size: Count | None = None
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.1
    preprocessing: Preprocessing = "normalise"
    augment: AugmentName = "dsa"


class ExpertConfig(Config):
    """How experts are trained.

    Attributes:
        network: A name of `raydd.NETWORKS`.
        num_experts: How many experts the buffer shall hold.
        epochs: Epochs an expert is trained; a snapshot is kept before the first and after each.
        optimizer: sgd, or momentum (SGD with ``momentum``).
        lr: Step size.
        momentum: Heavy-ball momentum, when ``optimizer`` is momentum.
        weight_decay: L2 penalty.
        batch_size: Images a step.
        milestones: Epochs after which the step size is multiplied by ``gamma``.
        gamma: The factor at a milestone.
    """

    network: str = "ConvNetW32"
    num_experts: Count = 10
    epochs: Count = 50
    optimizer: Literal["sgd", "momentum"] = "sgd"
    lr: Positive = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NonNegative = 0.0
    batch_size: Count = 256
    milestones: tuple[Count, ...] = ()
    gamma: Positive = 0.1


class WindowConfig(Config):
    """Start epochs an outer step may draw: low to high, both included; None fits the buffer."""

    low: Annotated[int, Field(ge=0)] = 0
    high: Annotated[int, Field(ge=0)] | None = None


class StepSizes(Config):
    """Outer step sizes, by leaf, and the student's own step size at the start.

    Attributes:
        images: Step size of the pixels.
        lr: Step size of the student's step size; 0 keeps it as it is.
        start: The student's step size at outer step 0.
        momentum: Momentum of every outer optimiser.
    """

    images: Positive = 100.0
    lr: NonNegative = 1e-5
    start: Positive = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5


class DistillConfig(Config):
    """One distillation.

    Attributes:
        method: A name of `raydd.METHODS`.
        ipc: Synthetic images a class.
        seed: Every draw of the run comes from it.
        steps: Outer steps.
        student_steps: N, student steps an outer step.
        span: M, expert epochs that a segment covers.
        window: Start epochs, T- and T+.
        batch_size: Synthetic images a student step; None takes the whole set.
        lr: Step sizes.
        backprop: full or adjoint (the same gradient), or truncated.
        initial: Images at the start: real or noise.
        gate: Step only when the loss is at most this; None always steps.
        ema: Decay of the running mean of the images that is the result; None takes the last.
        checkpoint_every: Outer steps between resumable checkpoints.
        evaluate_every: Outer steps between scores on the validation split; None scores only the end.
        threads: CPU threads; part of the run, since sums depend on it. None takes one a core, or what a
            resumed run had.
        preset: Where the values came from, as text.
        data: The images.
        experts: The experts to match.
    """

    method: str = "mtt"
    ipc: Count = 1
    seed: int = 0
    steps: Annotated[int, Field(ge=0)] = 5000
    student_steps: Count = 30
    span: Count = 2
    window: WindowConfig = WindowConfig()
    batch_size: Count | None = None
    lr: StepSizes = StepSizes()
    backprop: Backprop = "adjoint"
    initial: Literal["real", "noise"] = "real"
    gate: Positive | None = None
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    checkpoint_every: Count = 10
    evaluate_every: Count | None = None
    threads: Count | None = None
    preset: str = "defaults"
    data: DataConfig = DataConfig()
    experts: ExpertConfig = ExpertConfig()


class ExpertsConfig(Config):
    """A buffer of experts: the images, the experts, and the seed of every draw."""

    data: DataConfig = DataConfig()
    experts: ExpertConfig = ExpertConfig()
    seed: int = 0


class EvaluateConfig(Config):
    """How synthetic sets are scored.

    Attributes:
        dataset: Name or path of the real images; None takes the first set's own.
        networks: Names of networks; none takes the network the first set was distilled with.
        seeds: Fresh networks a cell.
        seed: Of the first network; the others count on from it.
        protocol: A name of `raydd.PROTOCOLS`.
        real_epochs: Epochs on the whole data set; None takes the protocol's.
    """

    dataset: str | None = None
    networks: tuple[str, ...] = ()
    seeds: Count = 5
    seed: int = 0
    protocol: str = "mtt"
    real_epochs: Count | None = None


C = TypeVar("C", bound=Config)
Tree = dict[str, Any]


def build(kind: type[C], *layers: Mapping[str, Any]) -> C:
    """A configuration from layers of nested values, later layers over earlier ones.

    Raises:
        ValueError: In one line, naming the key, its value and what is allowed.

    >>> build(ExpertConfig, {"epochs": 5}, {"lr": 0.1}).epochs
    5
    """
    tree: Tree = {}
    for layer in layers:
        merge(tree, layer)
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise ValueError(_explain(kind, error)) from None


def merge(tree: Tree, layer: Mapping[str, Any]) -> None:
    """Lay ``layer`` over ``tree`` in place, key by key."""
    for key, value in layer.items():
        below = tree.get(key)
        if isinstance(value, Mapping):
            tree[key] = dict(below) if isinstance(below, Mapping) else {}
            merge(tree[key], value)
        else:
            tree[key] = value


def parse_settings(settings: Iterable[str]) -> Tree:
    """Nested values from ``a.b=c`` words; values are read as YAML.

    Raises:
        ValueError: If a word has no ``=`` or no key.

    >>> parse_settings(["lr.images=10", "steps=5"])
    {'lr': {'images': 10}, 'steps': 5}
    """
    tree: Tree = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not all(key.split(".")):
            raise ValueError(f"--set {setting!r} is not of the form a.b=value, for example --set steps=150")
        value: Any = _read_value(setting, text)
        for part in reversed(key.split(".")):
            value = {part: value}
        merge(tree, value)
    return tree


def _read_value(setting: str, text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ValueError(f"--set {setting!r}: {text!r} is not a YAML value; quote it") from None
    if isinstance(value, str):  # YAML 1.1 reads 1e-5 as text
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _explain(kind: type[Config], error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place = [str(part) for part in first["loc"]]
    key = ".".join(place)
    if first["type"] == "extra_forbidden":
        known = list(_keys_at(kind, place[:-1]))
        near = difflib.get_close_matches(place[-1], known, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "known keys: " + ", ".join(sorted(known))
        return f"unknown setting {key!r}; {hint}"
    return f"{key} = {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"


def _keys_at(kind: type[Config], place: list[str]) -> Iterable[str]:
    for part in place:
        kind = kind.model_fields[part].annotation  # type: ignore[assignment]
    return kind.model_fields.keys()


def dump(config: Config) -> str:
    """The configuration as YAML, complete."""
    return str(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


def words(config: Config, prefix: str = "") -> str:
    """The configuration on one line, as words of a shell that ``--set`` takes.

    >>> words(WindowConfig(high=2))
    'low=0 high=2'
    """
    parts = []
    for key, value in config:
        if isinstance(value, Config):
            parts.append(words(value, f"{prefix}{key}."))
        else:
            text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
            parts.append(shlex.quote(f"{prefix}{key}={text}"))
    return " ".join(parts)
