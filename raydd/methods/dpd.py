"""Difference-Driven Pruning Distillation: DATM without the parameters that differ most.

MTT's loss over all parameters but the share r whose |theta_{t+N} - theta*_{t+M}| is largest.

Reference:
    Cao et al., PMLR 304:415-430 (DPD), section 3, Eq. 3-9 and Algorithm 1.

Differs:
    No official code is public. Window and labels are DATM's, as section 4.1 says.
"""

from raydd.methods.datm import METHOD as DATM
from raydd.methods.method import Method

METHOD = Method(
    name="dpd",
    about=__doc__,
    defaults=DATM.defaults | {"pruning": {"rate": 0.1}},
    ablation={"DATM": {"pruning": {"rate": 0.0}}, "+ pruning": {}},
)
