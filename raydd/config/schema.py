"""The schema: what an expert training, a distillation and an evaluation can be told."""

from typing import Annotated, Literal, Self

from pydantic import Field, ValidationInfo, model_validator

from raydd.config.components import (
    AugmentName,
    Count,
    FormationConfig,
    GsamConfig,
    KernelConfig,
    NonNegative,
    Positive,
    Precision,
    PruningConfig,
    SmoothConfig,
    StatisticConfig,
    StepSizes,
    UnrolledConfig,
    WindowConfig,
)
from raydd.config.names import Named
from raydd.config.parsing import Config, Tree
from raydd.config.rules import own_rules

MAX_SIDE = 2048
"""Height and width in pixels of the largest images."""

Backprop = Literal["full", "adjoint", "truncated"]
Preprocessing = Literal["normalise", "zca", "raw01"]
Initial = Literal[
    "real",
    "noise",
    "correctly_classified",
    "correctly_classified_mean",
    "real_soft",
    "representative",
    "kmeans",
    "herding",
    "kcenter",
    "forgetting",
    "glister",
    "rded",
]


class DataConfig(Config):
    """The images, and how they reach a network.

    Attributes:
        dataset: Data set: a name that `raydd datasets` lists, or a path.
        size: Side in pixels that images of a path are resized to; by default they keep theirs.
        channels: 1 reads all images as grey, 3 as RGB; by default as the files have them.
        validation: Fraction of the training set held out for honest selection.
        preprocessing: Preprocessing of the images: mean and standard deviation, ZCA whitening, or pixels in [0, 1].
        augment: Augmentation of experts, students and evaluation.
        flip: Whether augmentation may mirror images left and right; by default only for a named data set where that
            changes no class, so not for digits.
    """

    dataset: Annotated[str, Named("dataset")] = "digits"
    size: Annotated[int, Field(ge=1, le=MAX_SIDE)] | None = None
    channels: Literal[1, 3] | None = None
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.1
    preprocessing: Preprocessing = "normalise"
    augment: AugmentName = "dsa"
    flip: bool | None = None


class ExpertConfig(Config):
    """How experts are trained.

    Attributes:
        network: Network of the experts, such as ConvNetW32 (width 32), ConvNetD4 (depth 4) or ResNet18.
        num_experts: Total number of experts in the buffer, those already there included.
        epochs: Epochs per expert; a snapshot of the weights is stored before the first and after each.
        optimizer: Optimiser of the experts: sgd, momentum, adam, gsam (sharpness-aware, FTD) or smooth (AST).
        lr: Learning rate.
        momentum: Heavy-ball momentum, where ``optimizer`` is momentum or smooth.
        weight_decay: L2 penalty.
        batch_size: Images per step.
        milestones: Epochs after which the learning rate is multiplied by ``gamma``.
        gamma: The factor at a milestone.
        gsam: The sharpness-aware step, where ``optimizer`` is gsam.
        smooth: The smoothness constraint, where ``optimizer`` is smooth.
        kept: Epochs whose snapshots a convexified trajectory keeps (MCT), beside the first, the last, and the length of
            each layer's path in each epoch; by default the snapshot of every epoch is stored.
        storage: Number format of the stored snapshots; `raydd.buffer.precision.STORAGES` says what each loses.
        precision: Of the factors of a network's products: float32; tf32, 11 bits, on a GPU; or bfloat16, 8 bits.
        compile: Compile the network's steps; faster, and rounded otherwise. Not where optimizer is smooth.
    """

    network: Annotated[str, Named("network")] = "ConvNetW32"
    num_experts: Count = 10
    epochs: Count = 50
    optimizer: Literal["sgd", "momentum", "adam", "gsam", "smooth"] = "sgd"
    lr: Positive = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NonNegative = 0.0
    batch_size: Count = 256
    milestones: tuple[Count, ...] = ()
    gamma: Positive = 0.1
    gsam: GsamConfig = GsamConfig()
    smooth: SmoothConfig = SmoothConfig()
    kept: tuple[Count, ...] | None = None
    storage: Literal["float32", "float16", "bfloat16"] = "float32"
    precision: Precision = "float32"
    compile: bool = False

    @model_validator(mode="after")
    def _compilable(self) -> Self:
        if self.compile and self.optimizer == "smooth":
            raise ValueError(
                "experts.compile = true, but the loss of experts.optimizer = smooth changes with the epoch; drop it"
            )
        return self

    def recipe(self) -> Tree:
        """Return what decides an expert's bytes, JSON-able, without the settings of other optimisers."""
        unused = {"gsam", "smooth"} - {self.optimizer} | ({"kept"} if self.kept is None else set())
        for name in ("storage", "precision"):  # as before there was a choice
            unused |= {name} if getattr(self, name) == "float32" else set()
        unused |= set() if self.compile else {"compile"}
        return self.model_dump(mode="json", exclude={"num_experts", "network"} | unused)


class DistillConfig(Config):
    """One distillation.

    Attributes:
        method: Distillation method, a name that `raydd methods` lists; it sets its own defaults.
        ipc: Synthetic images per class.
        seed: Seed of every random draw.
        steps: Outer steps; a resumed run may have more, or fewer if it has not come so far.
        student_steps: N, student steps per outer step.
        span: M, expert epochs that a segment covers.
        rollouts: R, expert segments per outer step, whose gradients are averaged; above 1 they run in parallel on Ray.
        shards: Pieces that an outer step is cut into, for several Ray workers: groups of classes where statistics are
            matched, pieces of each student step's batch where trajectories are; 1 cuts nothing.
        window: Start epochs, T-, T and T+.
        batch_size: Synthetic images per student step; the whole set by default.
        lr: Learning rates.
        backprop: How the gradient goes back through the student's steps: full and adjoint are exact.
        memory: Bytes for graphs of student steps that need not be computed again; by default half of what is free.
        labels: Labels of the synthetic images: the set's own, or soft labels of the matched expert, which are never
            learned (TESLA).
        initial: Images at the start: real images selected in this way, or noise.
        label_epoch: Epoch after which an expert gives the soft labels of the start; the last by default.
        select_by: What herding, k-center and k-means measure distances of: an expert's features, or pixels.
        formation: Stored images of which students see several each: mosaics, or bases in styles.
        space: Where images are learned: as networks see them, or as pixels from 0 to 1.
        match: What is matched; the method decides it.
        statistic: The statistics, where ``match`` is statistics.
        unrolled: The training before a loss on real images, where ``match`` is loss.
        kernel: The kernel of a regression, where ``match`` is kernel.
        clusters: K-means clusters per class for the representative start; one per image by default.
        gate: Step only when the loss is at most this; by default always.
        ema: Decay of the running mean of images, styles and a regression's targets that is the result; by default the
            last ones are.
        pruning: Parameters that are left out of the match.
        intermediate: Match inside the segment too, with equal or varied (k / M) weights.
        balance: theta of AST's balanced inner loss; by default the loss is plain.
        perturbation: rho, relative size of AST's perturbation of the starting weights.
        convexify: Match straight lines between the experts' snapshots instead of their own steps (MCT).
        waypoints: Epochs between the first and the last that such a line passes.
        checkpoint_every: Outer steps between resumable checkpoints, which also serve a loss that is not finite.
        checkpoint_seconds: Write one at an outer step's end too if the last is older, with equal bits; null: by steps.
        evaluate_every: Outer steps between scores on the validation split, by which the result is chosen; the last step
            is scored too. By default none is scored, and the last set is the result.
        keep_scored: Keep every scored set in ``steps/``, to be tested when the run is done.
        evaluate_networks: Networks trained per score, which is their mean accuracy.
        evaluate_epochs: Epochs of a score's networks on the set; those of the protocol mtt by default.
        probe_every: Outer steps between measures of the matching loss on the buffer's last expert, which is then left
            out; by default none are taken.
        precision: Of the factors of a network's products: float32; tf32, 11 bits, on a GPU; or bfloat16, 8 bits.
        compile: Compile the network's steps and their derivatives, once for every shape; faster, and rounded otherwise.
        threads: CPU threads, on which sums depend. By default one per core, or one with several rollouts or shards.
        preset: The preset that the values came from, as text.
        data: The images.
        experts: The experts to match.
    """

    method: Annotated[str, Named("method")] = "mtt"
    ipc: Count = 1
    seed: int = 0
    steps: Annotated[int, Field(ge=0)] = 5000
    student_steps: Count = 30
    span: Count = 2
    rollouts: Count = 1
    shards: Count = 1
    window: WindowConfig = WindowConfig()
    batch_size: Count | None = None
    lr: StepSizes = StepSizes()
    backprop: Backprop = "adjoint"
    memory: NonNegative | None = None
    labels: Literal["own", "expert"] = "own"
    initial: Initial = "real"
    label_epoch: Annotated[int, Field(ge=0)] | None = None
    clusters: Count | None = None
    select_by: Literal["features", "pixels"] = "features"
    formation: FormationConfig = FormationConfig()
    space: Literal["network", "pixels"] = "network"
    match: Literal["trajectories", "statistics", "loss", "kernel", "nothing"] = "trajectories"
    statistic: StatisticConfig = StatisticConfig()
    unrolled: UnrolledConfig = UnrolledConfig()
    kernel: KernelConfig = KernelConfig()
    gate: Positive | None = None
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    pruning: PruningConfig = PruningConfig()
    intermediate: Literal["none", "equal", "varied"] = "none"
    balance: Annotated[float, Field(gt=1)] | None = None
    perturbation: NonNegative = 0.0
    convexify: bool = False
    waypoints: tuple[Count, ...] = ()
    checkpoint_every: Count = 10
    checkpoint_seconds: Positive | None = 60.0
    evaluate_every: Count | None = None
    keep_scored: bool = False
    evaluate_networks: Count = 2
    evaluate_epochs: Count | None = None
    probe_every: Count | None = None
    precision: Precision = "float32"
    compile: bool = False
    threads: Count | None = None
    preset: str = "defaults"
    data: DataConfig = DataConfig()
    experts: ExpertConfig = ExpertConfig()

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> Self:
        if not (info.context or {}).get("partial"):
            own_rules(self)
        return self


class ExpertsConfig(Config):
    """A buffer of experts.

    Attributes:
        data: The images.
        experts: The experts.
        seed: Seed of every random draw; each expert has its own stream.
    """

    data: DataConfig = DataConfig()
    experts: ExpertConfig = ExpertConfig()
    seed: int = 0


class EvaluateConfig(Config):
    """How synthetic sets are scored.

    Attributes:
        dataset: Data set of the real images, a name or a path; the first set's own by default.
        networks: Networks to train, comma-separated; by default the network that the first set was distilled with.
        seeds: Networks trained per reported accuracy, each with its own seed; the mean is reported.
        seed: Seed of the first network; the others count on from it.
        protocol: Recipe that trains the scored networks, named after its paper; or a YAML file of its fields.
        baselines: Selections of real images that are scored beside the sets, comma-separated, or none; by default all
            that are possible (forgetting needs a buffer).
        epochs: Epochs on a synthetic set; the protocol's by default.
        real_epochs: Epochs on the whole data set; the protocol's by default, and 0 leaves the whole data set out.
        batch_size: Images per batch; the protocol's by default.
        augment: Augmentation of all trainings; by default that of the first set's data.
        flip: Whether augmentation may mirror images; by default as for the first set's data.
        validation: Fraction of the training images held out; by default as for the first set's data.
        scores: Robust scores of DD-Ranking, comma-separated.
        score_weight: w of LRS, gamma of ARS.
        paper: Also report the best kept step chosen on the test images, as papers do; that is optimistic.
        test: Statistical test of differences between sets.
        compile: Compile the steps of trainings; faster, and rounded otherwise.
        preprocessing: Imported sets only: preprocessing that their files do not record; normalise by default.
        lr: Imported sets only: learning rate to train with if the files have none; 0.01 by default.
        layout: Imported sets only: layout of the files; detected from their names by default.
    """

    dataset: Annotated[str | None, Named("dataset")] = None
    networks: Annotated[tuple[str, ...], Named("network")] = ()
    seeds: Count = 5
    seed: int = 0
    protocol: Annotated[str, Named("protocol")] = "mtt"
    baselines: Annotated[tuple[str, ...] | None, Named("coreset")] = None
    epochs: Count | None = None
    real_epochs: Annotated[int, Field(ge=0)] | None = None
    batch_size: Count | None = None
    augment: AugmentName | None = None
    flip: bool | None = None
    validation: Annotated[float, Field(ge=0, lt=1)] | None = None
    scores: Annotated[tuple[str, ...], Named("score")] = ()
    score_weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    paper: bool = False
    test: Literal["welch", "bootstrap"] = "welch"
    compile: bool = False
    preprocessing: Preprocessing | None = None
    lr: Positive | None = None
    layout: Annotated[str | None, Named("layout")] = None
