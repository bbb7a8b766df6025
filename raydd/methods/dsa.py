"""Differentiable Siamese Augmentation: DC under one augmentation for real and synthetic images.

    sum_c D(grad L(A(T_c)), grad L(A(S_c))), with one view A for both.

Reference:
    Zhao & Bilen, arXiv 2102.08259, Eq. 6 and Algorithm 1.
"""

from raydd.methods.dc import SHARED, STATISTIC
from raydd.methods.method import Method

METHOD = Method(name="dsa", about=__doc__, match="statistics", defaults=SHARED | {"statistic": STATISTIC})
