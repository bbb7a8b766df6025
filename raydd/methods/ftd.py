"""Flat Trajectory Distillation: MTT on experts that seek flat minima.

Experts are trained by sharpness-aware SGD (GSAM), and the result is a running mean of the images,
X <- b X + (1 - b) X_step.

Reference:
    Du et al., arXiv 2211.11004, section 3 and Eq. 10.

Differs:
    The running mean of the images is scored on fresh networks; the official score comes from a network that was trained
    on the raw images before. The official code has settings for networks with BatchNorm; no preset here has them.
    Segments match parameters alone, under each batch's own statistics.
"""

from raydd.methods.method import Method

METHOD = Method(name="ftd", about=__doc__, defaults={"ema": 0.9995, "experts": {"optimizer": "gsam"}})
