"""Evaluation protocols, as data."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from raydd.config.components import AugmentName, Count, NonNegative, Positive
from raydd.config.parsing import Config, build
from raydd.config.schema import EvaluateConfig
from raydd.data.named_sets import SUBSETS
from raydd.io.safe_yaml import read_yaml
from raydd.numerics.augment import Augment, augment
from raydd.plugins import Table

Fraction = Annotated[float, Field(gt=0, lt=1)]


class Length(Config):
    """Epochs for sets of one size of some data sets.

    Attributes:
        datasets: Names of the data sets.
        ipc: Stored images per class.
        epochs: Epochs, with augmentation or without.
    """

    datasets: tuple[str, ...]
    ipc: Count
    epochs: Count


class Protocol(Config):
    """How a student is trained before it is tested.

    Attributes:
        name: The protocol's name, stored with every score.
        epochs: Epochs over the synthetic set with augmentation.
        plain_epochs: Epochs over the synthetic set without augmentation.
        real_epochs: Epochs over the whole real training set; 0 leaves it out.
        lr: Learning rate; None takes the synthetic set's own.
        momentum: Heavy-ball momentum.
        weight_decay: L2 penalty.
        batch_size: Images per batch.
        milestones: Fractions of the epochs after which the learning rate is multiplied by ``gamma``.
        gamma: The factor at a milestone.
        cutmix: Probability that a batch is mixed by CutMix, after its augmentation.
        rule: The augmentation in place of the data's own, where the data has one; None takes the data's own.
        strategy: Its operations, joined by ``_``; None takes all.
        lengths: Epochs for sets of some data sets and sizes, in place of ``epochs`` and ``plain_epochs``.
        compile: Compile the steps; faster, and rounded otherwise.
        optimizer: ``sgd``, or ``adamw``, which has no ``momentum``.
        cosine: The part of half a cosine wave by which AdamW's learning rate falls over the epochs; 0 is none.
        temperature: By which logits and the logits of soft labels are divided in the loss; classes, and targets of a
            regression, have none.
    """

    name: str
    epochs: Count
    plain_epochs: Count
    real_epochs: Annotated[int, Field(ge=0)]
    lr: Positive | None
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NonNegative = 5e-4
    batch_size: Count = 256
    milestones: tuple[Fraction, ...] = (0.5,)
    gamma: Positive = 0.1
    cutmix: Annotated[float, Field(ge=0, le=1)] = 0.0
    rule: AugmentName | None = None
    strategy: str | None = None
    lengths: tuple[Length, ...] = ()
    compile: bool = False
    optimizer: Literal["sgd", "adamw"] = "sgd"
    cosine: Annotated[float, Field(ge=0, le=1)] = 0.0
    temperature: Positive = 1.0

    @model_validator(mode="after")
    def _cosine_of_adamw(self) -> "Protocol":
        if self.cosine and self.optimizer != "adamw":
            raise ValueError("cosine is a schedule of optimizer: adamw; give that, or milestones")
        return self

    @field_validator("strategy")
    @classmethod
    def _known(cls, strategy: str | None) -> str | None:
        augment("dsa", strategy=strategy)
        return strategy

    def on(self, dataset: str, ipc: float) -> "Protocol":
        """Return the protocol with the epochs for a set of this data set and size, and without ``lengths``.

        >>> PROTOCOLS["tgdd"].on("imagenet_nette", 1).epochs, PROTOCOLS["tgdd"].on("cifar10", 1).epochs
        (2000, 1500)
        """
        exact = (length.epochs for length in self.lengths if dataset in length.datasets and ipc == length.ipc)
        epochs = next(exact, None)
        changed = {} if epochs is None else {"epochs": epochs, "plain_epochs": epochs}
        return self.model_copy(update=changed | {"lengths": ()})

    def augmentation(self, own: AugmentName, *, flip: bool) -> Augment:
        """Return the augmentation of students: ``rule`` in place of the data's ``own``, unless the data has none.

        Args:
            own: The augmentation of the data.
            flip: Whether images may be mirrored horizontally.
        """
        if own == "none":
            return augment("none")
        return augment(self.rule or own, flip=flip, strategy=self.strategy)

    def changed(
        self,
        epochs: int | None = None,
        real_epochs: int | None = None,
        compile: bool = False,
        batch_size: int | None = None,
    ) -> "Protocol":
        """Return the protocol with other numbers of epochs or batches, where given, or compiled; its name says so."""
        given: dict[str, Any] = {} if real_epochs is None else {"real_epochs": real_epochs}
        if epochs is not None:
            given |= {"name": f"{self.name}, {epochs} epochs", "epochs": epochs, "plain_epochs": epochs}
            given["lengths"] = ()
        if batch_size is not None:
            given |= {"name": f"{given.get('name', self.name)}, batches of {batch_size}", "batch_size": batch_size}
        if compile:
            given |= {"name": f"{given.get('name', self.name)}, compiled", "compile": True}
        return self.model_copy(update=given)


_DECOUPLED: dict[str, Any] = {
    "epochs": 300,
    "plain_epochs": 300,
    "real_epochs": 50,
    "lr": 1e-3,
    "optimizer": "adamw",
    "weight_decay": 0.01,
    "milestones": (),
    "cutmix": 1.0,
    "rule": "dsa_idc",
    "strategy": "crop_flip_scale",
    "temperature": 20.0,
}
_SHIPPED = {
    protocol.name: protocol
    for protocol in (
        Protocol(name="mtt", epochs=1000, plain_epochs=1000, real_epochs=50, lr=None),
        Protocol(name="datm", epochs=1000, plain_epochs=1000, real_epochs=50, lr=None, batch_size=128),
        Protocol(name="ast", epochs=1000, plain_epochs=1000, real_epochs=50, lr=None, gamma=0.5),
        Protocol(name="dm", epochs=1000, plain_epochs=300, real_epochs=50, lr=0.01),
        Protocol(name="dcbench", epochs=1000, plain_epochs=300, real_epochs=50, lr=0.01),
        Protocol(
            name="tgdd",
            epochs=1500,
            plain_epochs=1500,
            real_epochs=50,
            lr=0.01,
            batch_size=64,
            milestones=(2 / 3, 5 / 6),
            gamma=0.2,
            cutmix=0.5,
            rule="dsa_idc",
            strategy="color_crop_flip_scale_rotate",
            lengths=(
                Length(datasets=tuple(SUBSETS), ipc=1, epochs=2000),
                Length(datasets=tuple(SUBSETS), ipc=10, epochs=1000),
            ),
        ),
        Protocol(
            name="ncfm",
            epochs=2000,
            plain_epochs=2000,
            real_epochs=50,
            lr=1e-3,
            optimizer="adamw",
            weight_decay=0.01,
            batch_size=128,
            milestones=(0.2, 0.4, 0.6, 0.8),
            gamma=0.5,
            cutmix=0.5,
            rule="dsa",
        ),
        Protocol(name="sre2l", batch_size=1024, cosine=1.0, **_DECOUPLED),
        Protocol(name="rded", batch_size=50, cosine=0.5, **_DECOUPLED),
    )
}
PROTOCOLS: Table[Protocol] = Table("PROTOCOLS", Protocol, _SHIPPED)
"""By name. Where the numbers come from:

* mtt: arXiv 2203.11932.
* datm: ``mtt`` with batches of 128, the published code of DATM (arXiv 2310.05773, which names 1,000 epochs only).
* ast: ``mtt`` with the learning rate halved after 500 epochs, arXiv 2310.10541, section V-A. The text calls the 1,000
  epochs iterations, and names neither optimiser nor batch, which follow "the previous works": they are MTT's.
* dm: arXiv 2110.04181. dcbench: arXiv 2207.09639.
* tgdd: the published code of TGDD (arXiv 2512.02469); its text has SGD, the learning rate, momentum and weight decay.
  With CutMix that code augments by the rule of ``dsa_idc`` without cutout, and ImageNet subsets train for 2,000 epochs
  at 1 image per class and 1,000 at 10.
* ncfm: the published code of NCFM (arXiv 2502.20653), where AdamW has PyTorch's weight decay.
* sre2l: arXiv 2306.13092 and its published code, which shows the teacher's labels of every mixed crop. Here an image
  has one label, CutMix mixes two of them, and random resized crops are crops or changes of scale.
* rded: arXiv 2312.03526 and its published code, as sre2l; there a batch is of 10, 50 or 100 images at 1, 10 or 50
  images per class of ten, and twice that of more classes. The learning rate ends at half its first value.

The network after the last epoch is the one tested, in all of them. The code of TGDD, NCFM and RDED instead
reports the best epoch on the test images.
"""


def protocol_of(config: EvaluateConfig) -> Protocol:
    """Return the protocol of an evaluation, with its own epochs and batches.

    Raises:
        ValueError: As `find_protocol`.

    >>> protocol_of(EvaluateConfig(protocol="dm", epochs=300, batch_size=10)).name
    'dm, 300 epochs, batches of 10'
    """
    own = find_protocol(config.protocol)
    return own.changed(config.epochs, config.real_epochs, config.compile, config.batch_size)


def find_protocol(word: str) -> Protocol:
    """Return a protocol by name, or from a YAML file whose stem is its name.

    A file holds the fields of `Protocol`; with ``base: mtt`` only those that differ::

        base: mtt
        epochs: 300
        batch_size: 128

    Raises:
        ValueError: Neither; a file with an unknown, missing or impossible field; or one named as a built-in protocol.
    """
    if word in PROTOCOLS:
        return PROTOCOLS[word]
    path, known = Path(word), ", ".join(PROTOCOLS)
    if path.suffix not in (".yaml", ".yml"):
        raise ValueError(f"unknown protocol {word!r}; use one of {known}, or a YAML file")
    if path.stem in PROTOCOLS:  # scores of both would look alike
        raise ValueError(f"protocol {word} would be called {path.stem}, as a built-in one; give the file another name")
    try:
        tree = read_yaml(path)
    except ValueError as error:
        raise ValueError(f"protocol {error}") from None
    if not isinstance(tree, dict):
        raise ValueError(f"protocol {path} holds no fields; write them one a line, such as 'epochs: 300'")
    base = tree.pop("base", None)
    if base not in (None, *PROTOCOLS):
        raise ValueError(f"protocol {word}: base {base!r} is unknown; use one of {known}")
    tree = (PROTOCOLS[base].model_dump() if base else {}) | tree | {"name": path.stem}
    missing = [key for key, field in Protocol.model_fields.items() if field.is_required() and key not in tree]
    if missing:
        raise ValueError(f"protocol {word} lacks {', '.join(missing)}; give them, or a base such as 'base: mtt'")
    try:
        return build(Protocol, tree)
    except ValueError as error:
        raise ValueError(f"protocol {word}: {error}") from None
