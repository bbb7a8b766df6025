"""Backpropagation through time: a network trained on the set must classify real images.

    L = CE(theta_T(S), real images),

where theta_T is a fresh network after T student steps on the synthetic set S, and the gradient goes back through all of
them.

Reference:
    Wang et al., arXiv 1811.10959; as the baseline of Feng et al., arXiv 2311.07025, whose settings these are.

Differs:
    The first paper learns one image a step and has fixed initial weights; like the second, this draws them anew. The
    second clips the gradient by the running mean of its norm; no clipping is done here.
"""

from raydd.config.parsing import Tree
from raydd.methods.method import Method

SHARED: Tree = {
    "steps": 60000,
    "checkpoint_every": 20,
    "student_steps": 200,
    "lr": {"images": 0.001, "lr": 0.0, "start": 0.001, "optimizer": "adam"},
    "unrolled": {"batch_real": 5000},
}
METHOD = Method(name="bptt", about=__doc__, match="loss", defaults=SHARED)
