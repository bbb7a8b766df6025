"""Forgetting: the images that experts learned and forgot most often.

Any method can start from these images: ``--set initial=forgetting``.

Reference:
    Toneva et al., arXiv 1812.05159.
"""

from raydd.methods.method import Method

METHOD = Method(
    name="forgetting",
    about=__doc__,
    match="nothing",
    defaults={"steps": 0, "initial": "forgetting", "experts": {"num_experts": 5}},
)
