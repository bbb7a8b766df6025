"""What a run is: frozen, validated configurations."""

from typing import Annotated, Literal

from pydantic import Field

from raydd.config.components import (
    AugmentName,
    Count,
    FormationConfig,
    GsamConfig,
    NonNegative,
    Positive,
    PruningConfig,
    SmoothConfig,
    StatisticConfig,
)
from raydd.config.parsing import Config, Tree

Backprop = Literal["full", "adjoint", "truncated"]
Preprocessing = Literal["normalise", "zca", "raw01"]
Initial = Literal[
    "real",
    "noise",
    "correctly_classified",
    "correctly_classified_mean",
    "representative",
    "kmeans",
    "herding",
    "kcenter",
    "forgetting",
]


class DataConfig(Config):
    """Which images, and how they reach a network.

    Attributes:
        dataset: A registered name or a path.
        size: Side in pixels that images of a path are resized to; None keeps theirs.
        channels: 1 reads all images as grey, such as grey pictures stored as RGB, and 3 as RGB; None keeps what the
            files have.
        validation: Fraction of the training set held out for honest selection.
        preprocessing: normalise (mean and standard deviation), zca or raw01.
        augment: Augmentation of experts, students and evaluation.
        flip: Whether augmentation may mirror images left and right; None mirrors those of a named data set where that
            changes no class (not digits), and none of a path.
    """

    dataset: str = "digits"
    size: Count | None = None
    channels: Literal[1, 3] | None = None
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.1
    preprocessing: Preprocessing = "normalise"
    augment: AugmentName = "dsa"
    flip: bool | None = None


class ExpertConfig(Config):
    """How experts are trained.

    Attributes:
        network: A name of `raydd.NETWORKS`.
        num_experts: How many experts the buffer shall hold.
        epochs: Epochs an expert is trained; a snapshot is kept before the first and after each.
        optimizer: sgd, momentum (SGD with ``momentum``), gsam (sharpness-aware SGD, FTD) or smooth
            (momentum under AST's smoothness constraint).
        lr: Step size.
        momentum: Heavy-ball momentum, when ``optimizer`` is momentum or smooth.
        weight_decay: L2 penalty.
        batch_size: Images a step.
        milestones: Epochs after which the step size is multiplied by ``gamma``.
        gamma: The factor at a milestone.
        gsam: The sharpness-aware step, when ``optimizer`` is gsam.
        smooth: The smoothness constraint, when ``optimizer`` is smooth.
        kept: None keeps a snapshot an epoch. Else a convexified trajectory is kept (MCT): the first and
            the last snapshot, those of these epochs, and how far every layer went in each epoch.
        storage: The number format of the buffer's snapshots: float32, float16 or bfloat16, see
            `raydd.buffer.precision.STORAGES` for what those lose.
    """

    network: str = "ConvNetW32"
    num_experts: Count = 10
    epochs: Count = 50
    optimizer: Literal["sgd", "momentum", "gsam", "smooth"] = "sgd"
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

    def recipe(self) -> Tree:
        """What decides an expert's bytes, JSON-able: settings of other optimizers are left out."""
        unused = {"gsam", "smooth"} - {self.optimizer} | ({"kept"} if self.kept is None else set())
        unused |= {"storage"} if self.storage == "float32" else set()  # as before there was a choice
        return self.model_dump(mode="json", exclude={"num_experts", "network"} | unused)


class WindowConfig(Config):
    """Which start epochs an outer step may draw: a range closed at both ends.

    Attributes:
        low: T-, in epochs.
        current: T, the upper end at outer step 0, from which it grows to ``high``; None starts at ``high``.
        high: T+, in epochs; None fits the experts: their last epoch less the span.
        interval: I, outer steps an epoch of growth.
        continuous: Draw between whole epochs too (MCT; needs ``convexify``).
        auto: Find low, current and high by trial before the run (DATM, appendix A.6).
    """

    low: Annotated[int, Field(ge=0)] = 0
    current: Annotated[int, Field(ge=0)] | None = None
    high: Annotated[int, Field(ge=0)] | None = None
    interval: Count = 100
    continuous: bool = False
    auto: bool = False


class StepSizes(Config):
    """Outer step sizes, by leaf, and the student's own step size at the start.

    Attributes:
        images: Step size of the pixels.
        labels: Step size of the labels' logits, where a method learns them; 0 keeps them as they are.
        lr: Step size of the student's step size; 0 keeps it as it is.
        start: The student's step size at outer step 0.
        momentum: Momentum of the outer optimisers of images and lr.
        labels_momentum: Momentum of the labels'.
    """

    images: Positive = 100.0
    labels: NonNegative = 0.0
    lr: NonNegative = 1e-5
    start: Positive = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    labels_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9


class DistillConfig(Config):
    """One distillation.

    Attributes:
        method: A name of `raydd.METHODS`. What is not set here takes that method's own value.
        ipc: Synthetic images a class.
        seed: Every draw of the run comes from it.
        steps: Outer steps; a resumed run may have more, or fewer if it has not come so far.
        student_steps: N, student steps an outer step.
        span: M, expert epochs that a segment covers.
        rollouts: R, segments an outer step, whose gradients are averaged.
        window: Start epochs, T-, T and T+.
        batch_size: Synthetic images a student step; None takes the whole set.
        lr: Step sizes.
        backprop: full or adjoint (the same gradient), or truncated.
        labels: own (the set's), or expert: soft labels from the expert that is matched, never learned (TESLA).
        initial: Images at the start, a name of `raydd.selection.starting_images.INITIAL`.
        select_by: What herding, k-center and k-means measure distances of: an expert's features, or pixels.
        formation: Several small images in one.
        space: Where images are learned: network (as networks see them), or pixels (step sizes are of pixels, which
            stay between 0 and 1).
        match: What is matched: trajectories, statistics or nothing; the method's own.
        statistic: What statistics, where ``match`` is statistics.
        clusters: K-means clusters a class for the representative start; None takes one an image.
        gate: Step only when the loss is at most this; None always steps.
        ema: Decay of the running mean of the images that is the result; None takes the last.
        pruning: Which parameters are left out of the match.
        intermediate: Match inside the segment too, with equal or varied (k / M) weights.
        balance: theta of AST's balanced inner loss; None leaves the loss as it is.
        perturbation: rho, relative size of AST's perturbation of the starting weights.
        convexify: Match straight lines between the experts' snapshots instead of their own steps (MCT).
        waypoints: Epochs between the first and the last that such a line passes.
        checkpoint_every: Outer steps between resumable checkpoints, and between the states that a loss which is not
            finite returns to.
        checkpoint_seconds: Write a checkpoint at the end of an outer step too if the last one is older; the bits do not
            depend on it. None writes them by steps alone.
        evaluate_every: Outer steps between scores on the validation split, by which the result is chosen; the last
            step is scored too. None scores none and takes the last.
        keep_scored: Every scored set is kept in ``steps/``, to be tested when the run is done.
        evaluate_networks: Fresh networks a score, which is their mean accuracy.
        evaluate_epochs: Epochs of a score's networks on the set; None takes those of the protocol mtt.
        probe_every: Outer steps between measures of the matching loss on the buffer's last expert, which
            then takes no part; None takes none.
        threads: CPU threads; part of the run, since sums depend on it. None takes one a core, or one where there are
            several rollouts, or what a resumed run had.
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
    rollouts: Count = 1
    window: WindowConfig = WindowConfig()
    batch_size: Count | None = None
    lr: StepSizes = StepSizes()
    backprop: Backprop = "adjoint"
    labels: Literal["own", "expert"] = "own"
    initial: Initial = "real"
    clusters: Count | None = None
    select_by: Literal["features", "pixels"] = "features"
    formation: FormationConfig = FormationConfig()
    space: Literal["network", "pixels"] = "network"
    match: Literal["trajectories", "statistics", "nothing"] = "trajectories"
    statistic: StatisticConfig = StatisticConfig()
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
    threads: Count | None = None
    preset: str = "defaults"
    data: DataConfig = DataConfig()
    experts: ExpertConfig = ExpertConfig()


class ExpertsConfig(Config):
    """A buffer of experts.

    Attributes:
        data: The images.
        experts: The experts.
        seed: Every draw comes from it, by the expert's number.
    """

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
        protocol: A name of `raydd.PROTOCOLS`, or a YAML file of a protocol's fields.
        baselines: Selections of real images that stand beside the sets, names of `CORESETS`; None takes all that can
            be had.
        epochs: Epochs on a synthetic set; None takes the protocol's.
        real_epochs: Epochs on the whole data set; None takes the protocol's, 0 leaves the whole data set out.
        augment: Augmentation of all trainings; None takes that of the data the first set was distilled with.
        flip: Whether augmentation may mirror images; None takes that of the data the first set was distilled with.
        validation: Fraction of the training images held out; the same.
        scores: Robust scores of every set, names of `raydd.evaluation.robust.SCORES`; none does no training for them.
        score_weight: w of LRS, gamma of ARS.
        paper: Score every kept step of a run on test too, and give the best of them, as papers do.
        test: How differences between sets are tested.
        preprocessing: Of the images in other projects' files that do not say it; None takes normalise.
        lr: The students' step size, where other projects' files do not keep it.
        layout: Which project's files the sets are, a name of `raydd.interop.layouts.LAYOUTS`; None finds out.
    """

    dataset: str | None = None
    networks: tuple[str, ...] = ()
    seeds: Count = 5
    seed: int = 0
    protocol: str = "mtt"
    baselines: tuple[str, ...] | None = None
    epochs: Count | None = None
    real_epochs: Annotated[int, Field(ge=0)] | None = None
    augment: AugmentName | None = None
    flip: bool | None = None
    validation: Annotated[float, Field(ge=0, lt=1)] | None = None
    scores: tuple[str, ...] = ()
    score_weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    paper: bool = False
    test: Literal["welch", "bootstrap"] = "welch"
    preprocessing: Preprocessing | None = None
    lr: Positive | None = None
    layout: str | None = None
