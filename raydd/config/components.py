"""Settings of the parts that methods are made of. At its defaults a part is left out, or costs nothing."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from raydd.config.parsing import Config

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
AugmentName = Literal["none", "dsa", "dsa_idc"]
Precision = Literal["float32", "tf32", "bfloat16"]
PruningMetric = Literal["abs", "squared", "relative"]


class GsamConfig(Config):
    """The sharpness-aware step of FTD's experts.

    Attributes:
        rho: Size of the perturbation of the weights.
        alpha: Weight of the part of the gradient that is orthogonal to the perturbed one.
    """

    rho: Positive = 0.01
    alpha: NonNegative = 0.3


class SmoothConfig(Config):
    """The loss of AST's experts: lambda CE + mu (|grad_x W| - K)^2.

    Attributes:
        low: lambda in the first epoch.
        high: lambda in the last of ``epochs``; after it lambda is 1.
        epochs: Epochs over which lambda rises; 0 leaves it at 1.
        mu: Weight of the gradient penalty; 0 leaves it out.
        norm: K, the gradient norm that costs nothing.
    """

    low: Positive = 0.5
    high: Positive = 1.0
    epochs: Annotated[int, Field(ge=0)] = 5
    mu: NonNegative = 1.0
    norm: NonNegative = 1.0


class PruningConfig(Config):
    """Difference-driven pruning (DPD) of what is matched.

    Attributes:
        rate: Fraction of the parameters that is left out, those that differ most; 0 matches all.
        metric: abs |s - t|, squared (s - t)^2, or relative |s - t| / |t|.
    """

    rate: Annotated[float, Field(ge=0, lt=1)] = 0.0
    metric: PruningMetric = "abs"


class MosaicConfig(Config):
    """Several small images in one (multi-formation, IDC).

    Attributes:
        factor: rho: an image is a mosaic of rho x rho smaller ones; 1 is a single image.
        decode: How students see it: uniform (the tiles, enlarged), multi (mosaics of every factor up to rho,
            the whole image among them), or bounded (each image at one factor, the finest that ``bound`` allows).
        bound: Largest number of decoded images per class, where ``decode`` is bounded.
    """

    factor: Count = 1
    decode: Literal["uniform", "multi", "bounded"] = "uniform"
    bound: Count = 128


class StoredFormation(MosaicConfig):
    """How stored images become those that networks see, as files of sets have it."""

    styles: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.styles and self.factor > 1:
            raise ValueError(f"a formation has styles = {self.styles} and factor = {self.factor}")
        return self


class FormationConfig(MosaicConfig):
    """Stored images of which students see several each: mosaics (multi-formation, IDC), or bases in styles (HaBa).

    Attributes:
        factor: rho: an image is a mosaic of rho x rho smaller ones; 1 is a single image.
        decode: How students see it: uniform (the tiles, enlarged), multi (mosaics of every factor up to rho,
            the whole image among them), or bounded (each image at one factor, the finest that ``bound`` allows).
        bound: Largest number of decoded images per class, where ``decode`` is bounded.
        styles: S: an image is a base, which students see in each of S learned styles, in one of them a step; 0 is none.
        contrast: Weight of the similarity of two styles of a base to a network that learns beside; 0 leaves it out.
    """

    styles: Annotated[int, Field(ge=0)] = 0
    contrast: NonNegative = 0.0


class StatisticConfig(Config):
    """The statistics that a method compares, and the networks that it sees images through.

    Attributes:
        networks: Networks: random (a fresh one every outer step), trained (a fresh one every ``refresh`` outer steps,
            trained on the synthetic set in between), experts (a snapshot of the buffer), mixed (between an
            expert's first and last), queue (several, each trained on real images for a while), or real (a fresh one
            every ``refresh`` outer steps, trained on real images in between).
        of: Statistic: features before the last layer, the features of all layers, unit_features (of length 1), the
            attention maps of all layers, the gradient of the loss, or the inputs of an expert's batch_norm (sre2l).
        distance: Distance: means (squared distance of mean features), covariances (of these too), characteristic
            (functions at random frequencies), gaussian (the maximum mean discrepancy under a Gaussian kernel), or of
            gradients cosine (layer by layer) or squared (of convolutions).
        batch_real: Real images per class and step.
        batch_synthetic: Largest number of decoded synthetic images per class and step; all by default.
        cluster_every: Take the real images nearest to the centres of clusters of features, chosen anew every so many
            outer steps; by default they are drawn at random.
        each_class: Take one optimiser step per class instead of one for all classes.
        alpha: Weight of the cross-entropy of the synthetic images.
        region: L, the number of snapshots from the matched one on of which one gives the cross-entropy.
        extractor: Network that gives the statistic: own, which is that of ``networks``, or random, a fresh one.
        judge: Network that gives the cross-entropy: own, which is that of ``networks``, last (the expert's last
            snapshot), or random, a fresh one.
        augment: The siamese augmentation that real and synthetic images share.
        strategy: Operations of the augmentation, joined by ``_``.
        beside: Weight of this loss beside the match of trajectories, where ``match`` is trajectories; 0 leaves it out.
        history: Weight of the distance of a class's mean features from their running mean; 0 leaves it out.
        history_from: Outer step from which that counts.
        refresh: Outer steps that a trained network is used for; or between two fresh networks of the queue.
        epochs: Epochs over the synthetic set between two outer steps.
        lr: Learning rate of that training.
        batch_size: Images per step of that training.
        queue_size: Largest number of networks in the queue; each has twice its parameters in every checkpoint.
        queue_steps: Steps on real images that two networks of the queue, or the one network, take after every outer
            step.
    """

    networks: Literal["random", "trained", "experts", "mixed", "queue", "real"] = "random"
    of: Literal["features", "layers", "unit_features", "attention", "gradient", "batch_norm"] = "features"
    distance: Literal["means", "covariances", "characteristic", "gaussian", "cosine", "squared"] = "means"
    batch_real: Count = 256
    batch_synthetic: Count | None = None
    cluster_every: Count | None = None
    each_class: bool = False
    alpha: NonNegative = 0.0
    region: Count = 7
    extractor: Literal["own", "random"] = "own"
    judge: Literal["own", "last", "random"] = "own"
    augment: AugmentName = "dsa"
    strategy: str = "color_crop_cutout_flip_scale_rotate"
    beside: NonNegative = 0.0
    history: NonNegative = 0.0
    history_from: Annotated[int, Field(ge=0)] = 2000
    refresh: Count = 1
    epochs: Annotated[int, Field(ge=0)] = 0
    lr: Positive = 0.01
    batch_size: Count = 256
    queue_size: Count = 100
    queue_steps: Count = 10


class WindowConfig(Config):
    """The expert epochs at which a matched segment may start: a range closed at both ends.

    Attributes:
        low: T-, the first start epoch.
        current: T, the last start epoch at outer step 0, which grows to ``high``; ``high`` by default.
        high: T+, the last start epoch in the end; by default the experts' last epoch less the span.
        interval: I, outer steps per epoch of growth.
        continuous: Draw between whole epochs too (MCT; needs ``convexify``).
        auto: Search low, current and high by short trials before the run (DATM, appendix A.6).
    """

    low: Annotated[int, Field(ge=0)] = 0
    current: Annotated[int, Field(ge=0)] | None = None
    high: Annotated[int, Field(ge=0)] | None = None
    interval: Count = 100
    continuous: bool = False
    auto: bool = False


class UnrolledConfig(Config):
    """The training on the synthetic set that a loss on real images is taken after, where ``match`` is loss.

    Attributes:
        window: Student steps that the gradient goes back through; those before only lead to it. By default all.
        position: Where the window lies: last, random, or gradient (drawn by the norms of the student's gradients: where
            they are large in the first third of the outer steps, anywhere in the second, late in the last).
        radius: Half the range of the window's length, where ``position`` is gradient.
        optimizer: Optimiser of the students.
        batch_real: Real images of the loss, of all classes.
    """

    window: Count | None = None
    position: Literal["last", "random", "gradient"] = "last"
    radius: Annotated[int, Field(ge=0)] = 0
    optimizer: Literal["sgd", "adam"] = "adam"
    batch_real: Count = 256


class KernelConfig(Config):
    """The kernel of a ridge regression from the synthetic set to real images, where ``match`` is kernel.

    Attributes:
        of: What it compares: features of networks that are trained on the synthetic set, pixels by the tangent kernel
            of a fully connected ReLU network of infinite width, or such networks themselves, linearised (rcig).
        depth: Hidden layers of the network of infinite width.
        batch_real: Real images a step, of all classes.
        regularisation: Of the regression, as a part of the mean of the kernel's diagonal; where ``of`` is linearised,
            for each synthetic image.
        pool: How many networks there are; each has three times its parameters in every checkpoint.
        renew: Steps after which a fresh network takes the place of one.
        lr: Learning rate of the networks, which take steps of Adam after each use.
        pool_steps: The most steps after a use, whose number is drawn uniformly from 1.
        solver_steps: Steps of conjugate gradients of each of two linear systems, where ``of`` is linearised.
        mirror: Show the synthetic images and their mirror images, where ``of`` is linearised and data.flip allows it.
    """

    of: Literal["features", "tangent", "linearised"] = "features"
    depth: Count = 3
    batch_real: Count = 256
    regularisation: Positive = 1e-6
    pool: Count = 10
    renew: Count = 100
    lr: Positive = 3e-4
    pool_steps: Count = 1
    solver_steps: Count = 20
    mirror: bool = True


class StepSizes(Config):
    """Learning rates of what is distilled, and the students' own learning rate at the start.

    Attributes:
        images: Learning rate of the pixels.
        labels: Learning rate of the labels, where a method learns them: of their logits, and where ``match`` is kernel
            of the targets of its regression. 0 leaves the labels unchanged.
        lr: Learning rate of the students' learning rate; 0 leaves it unchanged.
        start: The students' learning rate at outer step 0.
        momentum: Momentum of the outer optimisers of images and lr.
        labels_momentum: Momentum of the outer optimiser of the labels.
        styles: Learning rate of the styles, where there are some; by default that of the images.
        styles_momentum: Momentum of the outer optimiser of the styles.
        optimizer: The outer optimiser: SGD with momentum, Adam, or Adam with decoupled weight decay.
        patience: Outer steps without a lower loss after which all learning rates are halved; by default they stay.
    """

    images: Positive = 100.0
    labels: NonNegative = 0.0
    lr: NonNegative = 1e-5
    start: Positive = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    labels_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    styles: NonNegative | None = None
    styles_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.95
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    patience: Count | None = None
