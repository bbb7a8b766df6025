"""Alignment with Smooth and high-quality expert Trajectories: MTT on smooth experts.

The parts are a representative start (``initial``), a balanced inner loss (``balance``, Eq. 20), matches inside the
segment (``intermediate``, Eq. 22), perturbed starting weights (``perturbation``, Eq. 23) and smooth experts
(``experts.optimizer``, Eq. 19).

Reference:
    Shen et al., arXiv 2310.10541, Algorithms 1 and 2, Eq. 19-23; the ablation is its Table VIII.

Differs:
    Students use plain SGD as in Algorithm 2, where the official code gives them momentum 0.9; the official logarithm of
    Eq. 20 is to base 5, and its perturbation scales whole tensors with rho 1. The paper evaluates with the learning
    rate halved at 500 epochs, protocol ``ast``; the default protocol ``mtt`` divides it by ten there.
"""

from raydd.methods.method import Method

METHOD = Method(
    name="ast",
    about=__doc__,
    defaults={
        "initial": "representative",
        "intermediate": "equal",
        "balance": 8.0,
        "perturbation": 0.1,
        "experts": {"optimizer": "smooth"},
    },
    ablation={
        "MTT on smooth experts": {"initial": "real", "balance": None, "intermediate": "none", "perturbation": 0.0},
        "+ representative start": {"balance": None, "intermediate": "none", "perturbation": 0.0},
        "+ balanced loss": {"intermediate": "none", "perturbation": 0.0},
        "+ intermediate matching": {"perturbation": 0.0},
        "+ perturbation": {},
    },
)
