"""Distribution matching by attention: attention maps of all layers agree, and so do the mean outputs.

Reference:
    Sajedi et al., arXiv 2310.00093 (DataDAM).

Differs:
    The paper raises activations to a power before it sums them over the channels; as in its code, their absolute values
    are summed here.
"""

from raydd.methods.method import Method

METHOD = Method(
    name="datadam",
    about=__doc__,
    match="statistics",
    defaults={
        "steps": 20000,
        "checkpoint_every": 200,
        "lr": {"images": 1.0, "lr": 0.0},
        "statistic": {"of": "attention", "batch_real": 64},
    },
)
