"""A data set of one's own: a folder of images with a folder a class.

Four kinds of shapes are drawn first; put the path of your images in their place. A folder of Parquet in Hugging Face's
image layout, or an .npz, is taken likewise. DM then makes five images a class. About two minutes on two cores:

    python examples/own_dataset.py [--smoke]
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

import raydd

SHAPES = {  # whether a point is inside, by its distance from the middle in sizes of the shape
    "cross": lambda x, y: (np.minimum(abs(x), abs(y)) < 0.3) & (np.maximum(abs(x), abs(y)) < 1),
    "disc": lambda x, y: np.hypot(x, y) < 1,
    "ring": lambda x, y: abs(np.hypot(x, y) - 0.75) < 0.25,
    "square": lambda x, y: np.maximum(abs(x), abs(y)) < 0.9,
}


def drawn(folder: Path, count: int) -> Path:
    """Shapes of any size and place in noise, 16 x 16 pixels, ``count`` a class."""
    rng, axis = np.random.default_rng(0), np.arange(16)
    for name, inside in SHAPES.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            middle, size = rng.uniform(5, 10, 2), rng.uniform(3, 6)
            shape = inside((axis - middle[0]) / size, (axis[:, None] - middle[1]) / size)
            pixels = 90 + 70 * shape + rng.normal(0, 35, shape.shape)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{index:04}.png")
    return folder


def main(out: str = "runs/example-dataset", smoke: bool = False) -> None:
    """Look at the images, distill them, and score the set beside real images of the same number."""
    path = drawn(Path(out).absolute() / "shapes", 40 if smoke else 400)  # absolute: Ray's workers run elsewhere
    images = raydd.load_dataset(path)  # decoded once, and kept in the cache
    sizes = f"{len(images.train)} training, {len(images.validation)} validation and {len(images.test)} test images"
    print(f"{images.name}: {', '.join(images.classes)}; {sizes}; {images.note}")

    config = raydd.DistillConfig(
        method="dm",
        ipc=5,
        steps=3 if smoke else 200,
        data={"dataset": str(path)},
        experts={"network": "MLP" if smoke else "ConvNetW32"},
    )
    synset = raydd.distill(config, f"{out}/run", resume=True)

    baselines = ("random", "kmeans")
    scoring = raydd.EvaluateConfig(
        seeds=2 if smoke else 5, epochs=10 if smoke else 200, real_epochs=2 if smoke else 20, baselines=baselines
    )
    for score in raydd.evaluate([synset], scoring, names=["DM"]):
        print(f"{score.name:28} {100 * score.mean:.1f} ± {100 * score.std:.1f} %")


if __name__ == "__main__":
    main(smoke="--smoke" in sys.argv[1:])
