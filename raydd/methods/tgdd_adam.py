"""TGDD from k-means with Adam: the composition that was best on held-out images in the league's searches.

As tgdd, but that mosaics of k-means are the start, and that Adam moves the images. No paper has it; its learning rate
does not grow with the images of a class, as that of gradient descent does in tgdd.

Reference:
    docs/league.md; Ran et al., arXiv 2512.02469, for the loss.
"""

from raydd.methods.method import Method
from raydd.methods.tgdd import SHARED, STATISTIC

METHOD = Method(
    name="tgdd_adam",
    about=__doc__,
    match="statistics",
    defaults=SHARED
    | {"initial": "kmeans", "lr": SHARED["lr"] | {"images": 0.0015, "optimizer": "adam"}}
    | {"statistic": STATISTIC | {"networks": "experts", "alpha": 2.5}},
)
