"""A search in a space that is shipped: MTT's settings on digits.

Trials run beside one another and share one buffer of experts. They are compared on validation images; the best is then
scored on the test images. About four minutes on two cores:

    python examples/tune.py [--smoke]
"""

import sys

import raydd


def main(out: str = "runs/example-tune", smoke: bool = False) -> None:
    """Search, and print what was found; a second call does only what is left."""
    small = {"steps": 5, "evaluate_epochs": 30, "experts": {"network": "MLP", "num_experts": 2, "epochs": 6}}
    scoring = raydd.EvaluateConfig(seeds=2 if smoke else 5, epochs=20 if smoke else None, real_epochs=0)
    results = raydd.tune(
        "mtt_digits",  # `raydd spaces` has all names; a path of a YAML file does too
        out,
        num_samples=3 if smoke else 8,
        settings=small if smoke else {},  # fixed in every trial
        evaluation=scoring,
        resume=True,
    )

    for trial in results.trials:
        accuracy = 100 * trial.metrics.get("accuracy", 0.0)  # a failed trial may have none
        print(f"trial {trial.number}: {trial.state}, {accuracy:.1f} % on validation images")
    if results.best is not None:
        print(f"the best is trial {results.best.number}: {results.best.values}")
    for score in results.scores:
        print(f"{score.name:28} {100 * score.mean:.1f} ± {100 * (score.std or 0):.1f} % on test images")
    print(f"raydd distill --preset {results.folder / 'best.yaml'} makes the best set again")


if __name__ == "__main__":
    main(smoke="--smoke" in sys.argv[1:])
