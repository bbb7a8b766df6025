"""Herding: images whose mean feature follows the mean of their class, one after another.

Any method can start from these images: ``--set initial=herding``.

Reference:
    Welling, ICML 2009.
"""

from raydd.methods.method import Method

METHOD = Method(
    name="herding",
    about=__doc__,
    match="nothing",
    defaults={"steps": 0, "initial": "herding", "experts": {"num_experts": 1}},
)
