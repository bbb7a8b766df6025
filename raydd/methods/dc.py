"""Dataset Condensation: gradients on synthetic images point where those on real images do.

    sum_c D(grad L(T_c), grad L(S_c))

class by class, where D sums 1 - cos over the layers. Networks start at random and are trained on the synthetic set
along the way.

Reference:
    Zhao et al., arXiv 2006.05929, Algorithm 1 and Eq. 10.

Differs:
    ``steps`` counts updates of the images, K x T of the paper; ``statistic.refresh`` is T.
"""

from raydd.config.parsing import Tree
from raydd.methods.method import Method

SHARED: Tree = {"steps": 10000, "checkpoint_every": 200, "lr": {"images": 0.1, "lr": 0.0}}
STATISTIC: Tree = {"networks": "trained", "of": "gradient", "distance": "cosine", "refresh": 10, "epochs": 50}
METHOD = Method(
    name="dc",
    about=__doc__,
    match="statistics",
    defaults=SHARED | {"initial": "noise", "statistic": STATISTIC | {"augment": "none"}},
)
