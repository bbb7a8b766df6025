"""Representative matching: IDC on the real images nearest to the centres of their clusters.

Clusters are of the features of the network in use, and found anew every ten outer steps; images start at the centres of
clusters too.

Reference:
    Liu et al., arXiv 2302.14416 (DREAM).

Differs:
    Up to 1,000 images of a class are clustered for each choice, where the code takes all.
"""

from raydd.methods.idc import METHOD as IDC
from raydd.methods.method import Method

METHOD = Method(
    name="dream",
    about=__doc__,
    match="statistics",
    defaults=IDC.defaults
    | {
        "initial": "kmeans",
        "select_by": "pixels",
        "statistic": IDC.defaults["statistic"] | {"cluster_every": 10, "batch_real": 128},
    },
)
