"""Distribution Matching: mean features of real and synthetic images, through fresh random networks.

    sum_c |mean phi(A(T_c)) - mean phi(A(S_c))|^2

Reference:
    Zhao & Bilen, arXiv 2110.04181, Eq. 5 and Algorithm 1.
"""

from raydd.methods.method import Method

METHOD = Method(
    name="dm",
    about=__doc__,
    match="statistics",
    defaults={"steps": 20000, "checkpoint_every": 200, "lr": {"images": 1.0, "lr": 0.0}},
)
