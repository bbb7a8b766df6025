"""Automatic truncated BPTT: RaT-BPTT whose window follows the size of the student's gradients.

Reference:
    Li et al., arXiv 2510.04838 (AT-BPTT), and its official code.

Differs:
    That code leaves a stage when the accuracy on the test images rises no more; here each is a third of the outer
    steps. Its low-rank approximation of the second derivative is left out: the gradient is exact. The radius of its
    window is an argument without a published value; 20 is that of the read-me of its successor.
"""

from raydd.methods.bptt import SHARED
from raydd.methods.method import Method

UNROLLED = SHARED["unrolled"] | {"window": 60, "position": "gradient", "radius": 20}
METHOD = Method(name="atbptt", about=__doc__, match="loss", defaults=SHARED | {"unrolled": UNROLLED})
