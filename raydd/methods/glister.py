"""Glister: the images whose gradient steps lower the loss on other real images most, picked one after another.

Any method can start from these images: ``--set initial=glister``.

Reference:
    Killamsetty et al., arXiv 2012.10630.
"""

from raydd.methods.method import Method

METHOD = Method(
    name="glister",
    about=__doc__,
    match="nothing",
    defaults={"steps": 0, "initial": "glister", "experts": {"num_experts": 5}},
)
