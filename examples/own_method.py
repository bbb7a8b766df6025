"""A method of one's own in one file: parts of raydd, put together anew, and a row in its table of methods.

DM makes the mean features of synthetic images those of real ones, class by class. This method matches how far the
features spread too: more than DM's first moment, less than M3D's kernel, which has them all. Networks, real images,
augmentation and the loop are DM's. Both are distilled, and scored alike. About a minute on two cores:

    python examples/own_method.py [--smoke]
"""

import sys
from dataclasses import replace

from torch import Tensor

import raydd
from raydd.distillation.setup import Recipe, Setup
from raydd.distillation.statistic_matching import match_statistics
from raydd.methods.method import Method
from raydd.numerics.statistics import means


def moments(real: Tensor, synthetic: Tensor) -> Tensor:
    """Squared distance of the means and of the standard deviations of features, (B, F) and (B', F); a scalar."""
    ours, theirs = ((features.var(0, correction=0) + 1e-6).sqrt() for features in (synthetic, real))
    return means(real, synthetic) + (ours - theirs).square().sum()


def spread(setup: Setup) -> Recipe:
    """Return what is matched, where it starts, and what is learned."""
    recipe = match_statistics(setup)  # as the settings say
    return recipe._replace(objective=replace(recipe.objective, distance=moments))


raydd.METHODS["spread"] = Method(
    name="spread",
    about="DM that matches the deviations of features too.",
    match="statistics",
    defaults=raydd.METHODS["dm"].defaults,  # 20000 steps, a learning rate of 1
    compose=spread,
)


def main(out: str = "runs/example-method", smoke: bool = False) -> None:
    """Distill by both methods, and compare; a second call goes on with what is there."""
    sets = []
    for method in ("dm", "spread"):
        config = raydd.DistillConfig(
            method=method, ipc=10, steps=3 if smoke else 150, experts={"network": "MLP" if smoke else "ConvNetW32"}
        )
        sets.append(raydd.distill(config, f"{out}/{method}", resume=True))

    scoring = raydd.EvaluateConfig(seeds=2 if smoke else 5, epochs=10 if smoke else 200, real_epochs=0)
    for score in raydd.evaluate(sets, scoring, names=["dm", "spread"]):
        print(f"{score.name:28} {100 * score.mean:.1f} ± {100 * score.std:.1f} %")


if __name__ == "__main__":
    main(smoke="--smoke" in sys.argv[1:])
