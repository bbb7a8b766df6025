"""M3D: DM under a Gaussian kernel, which compares all moments of the features.

The distance is the maximum mean discrepancy, mean k(t, t') - 2 mean k(t, s) + mean k(s, s').

Reference:
    Zhang et al., arXiv 2312.15927, Eq. 6 and 7.

Differs:
    The paper's bandwidth, learning rates and lifetime of a random network are not public: the bandwidths are those of
    later public code under its name, a network serves one step, and no preset of its tables is shipped.
"""

from raydd.methods.method import Method

METHOD = Method(
    name="m3d",
    about=__doc__,
    match="statistics",
    defaults={
        "steps": 20000,
        "checkpoint_every": 200,
        "formation": {"factor": 2},
        "lr": {"images": 1.0, "lr": 0.0},
        "statistic": {"distance": "gaussian"},
    },
)
