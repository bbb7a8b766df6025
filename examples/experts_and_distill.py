"""Experts, a distillation from them, and its score on the test images.

MLPs learn the digits that come with scikit-learn, MTT makes one image a class of how they learned, and new networks are
trained on these ten images. About two minutes on two cores, without a GPU or a download:

    python examples/experts_and_distill.py [--smoke]
"""

import sys

import raydd


def main(out: str = "runs/example-distill", smoke: bool = False) -> None:
    """Train, distill and score; all files are below ``out``, and a second call goes on with them."""
    experts = raydd.ExpertConfig(network="MLP", num_experts=2 if smoke else 10, epochs=4 if smoke else 30)
    buffer = raydd.train_experts(raydd.ExpertsConfig(experts=experts), f"{out}/buffer")

    # Nested settings may be mappings. What is not said here is the method's own, as docs/methods.md tells.
    step_sizes = {"images": 20, "lr": 1e-6, "start": 0.01}
    config = raydd.DistillConfig(
        method="mtt", ipc=1, steps=2 if smoke else 150, student_steps=20, span=2, lr=step_sizes, experts=experts
    )
    synset = raydd.distill(config, f"{out}/run", buffer=buffer, resume=True)  # goes on after a kill, bit by bit

    scoring = raydd.EvaluateConfig(seeds=2 if smoke else 5, epochs=20 if smoke else 300, real_epochs=0)
    for score in raydd.evaluate([synset], scoring, names=["MTT"]):
        print(f"{score.name:28} {100 * score.mean:.1f} ± {100 * score.std:.1f} %")


if __name__ == "__main__":
    main(smoke="--smoke" in sys.argv[1:])
