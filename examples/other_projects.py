"""A set of another project, read, scored, and written in other layouts.

MTT leaves ``images_best.pt`` and ``labels_best.pt``, which say neither what the images are of nor how they were
preprocessed. Here such files are made from real digits first; put the folder of yours in their place.
About a minute on two cores:

    python examples/other_projects.py [--smoke]
"""

import sys
from pathlib import Path

import torch

import raydd


def mtt_files(folder: Path) -> Path:
    """What MTT's code would save: ten images a class in a network's space, and their classes."""
    folder.mkdir(parents=True, exist_ok=True)
    digits = raydd.load_dataset("digits")
    rows = torch.cat([torch.nonzero(digits.train.targets == label).flatten()[:10] for label in range(10)])
    mean, std = digits.mean[0], digits.std[0]
    torch.save((digits.train.take(rows) / 255 - mean) / std, folder / "images_best.pt")
    torch.save(digits.train.targets[rows], folder / "labels_best.pt")
    return folder


def main(out: str = "runs/example-other", smoke: bool = False) -> None:
    """Read the files, score them, and write what was read in three more layouts."""
    read = raydd.read_synset(mtt_files(Path(out) / "theirs"), data=raydd.DataConfig(dataset="digits"), lr=0.02)
    print(f"read as {read.layout}: {len(read.synset.images)} images of {read.synset.dataset}")
    for note in read.notes:
        print(f"  {note}")

    scoring = raydd.EvaluateConfig(
        networks=("MLP",) if smoke else ("ConvNetW32", "MLP"),
        seeds=2 if smoke else 5,
        epochs=20 if smoke else 300,
        real_epochs=0,
        baselines=("random",),
    )
    for score in raydd.evaluate([read.synset], scoring, names=["theirs"]):
        print(f"{score.name:24} {score.network:12} {100 * score.mean:.1f} ± {100 * score.std:.1f} %")

    for layout in ("dc", "ddranking", "hf"):
        written = raydd.write_synset(read.synset, Path(out) / layout, layout)
        print(f"{layout}: {', '.join(path.name for path in written.paths)}")


if __name__ == "__main__":
    main(smoke="--smoke" in sys.argv[1:])
