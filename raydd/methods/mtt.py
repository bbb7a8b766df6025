"""Matching Training Trajectories: students walk as experts do.

A student starts at an expert's weights theta*_t at a random epoch t of the window, takes N steps of SGD on the
synthetic images, and must arrive at the expert's weights M epochs later. Images and the students' learning rate are
learned from

    L = |theta_{t+N} - theta*_{t+M}|^2 / |theta*_t - theta*_{t+M}|^2.

Reference:
    Cazenavette et al., arXiv 2203.11932, Algorithm 1.

Differs:
    The gradient is exact, by an adjoint sweep; ``backprop: full`` is the original. The learning rate is clamped to at
    least a hundredth of its start, where the official code lets it turn negative. Official start epochs leave the
    window's upper end out.
"""

from raydd.methods.method import Method

METHOD = Method(name="mtt", about=__doc__)
