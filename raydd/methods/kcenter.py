"""K-center: images from which no image of their class is far.

Any method can start from these images: ``--set initial=kcenter``.

Reference:
    Sener & Savarese, arXiv 1708.00489.
"""

from raydd.methods.method import Method

METHOD = Method(
    name="kcenter",
    about=__doc__,
    match="nothing",
    defaults={"steps": 0, "initial": "kcenter", "experts": {"num_experts": 1}},
)
