"""Random truncated BPTT: the gradient goes through a window of student steps that ends at a random one.

    L = CE(theta_{s + W}(S), real images), s uniform on 0 .. T - W.

Reference:
    Feng et al., arXiv 2311.07025 (RaT-BPTT), and its official code.

Differs:
    The code starts from noise, clips the gradient by the running mean of its norm, and learns labels from one-hot ones;
    here labels are learned where a start has soft ones. Boosting, which distils the images of a class in turns, is left
    out.
"""

from raydd.methods.bptt import SHARED
from raydd.methods.method import Method

UNROLLED = SHARED["unrolled"] | {"window": 60, "position": "random"}
METHOD = Method(name="ratbptt", about=__doc__, match="loss", defaults=SHARED | {"unrolled": UNROLLED})
