"""Hallucinators and bases: stored images are seen in learned styles, which trajectory matching learns with them.

An image that students see is style_j(b_i), for a base b_i and one of S styles: a convolution, a scale and shift of
every feature, and a convolution back. In a student step all bases are in one style. To MTT's loss is added

    lambda mean_i (cos(f(style_j(b_i)), f(style_k(b_i))) + 1) / 2

of two styles, through a network f that is trained meanwhile on CE + lambda (1 - cos) / 2 + lambda SupCon.

Reference:
    Liu et al., arXiv 2210.16774, with the values of its official code.

Differs:
    As in mtt; besides, the learning rate has the momentum of the images, 0.95, where the code has 0.9. Students of an
    evaluation see every base in every style in an epoch, where the code draws one style a base; the code also scales
    the batches of an evaluation to mean 0 and deviation 1.
"""

from raydd.methods.method import Method

METHOD = Method(
    name="haba",
    about=__doc__,
    defaults={"steps": 15000, "formation": {"styles": 5, "contrast": 0.1}, "lr": {"momentum": 0.95}},
)
