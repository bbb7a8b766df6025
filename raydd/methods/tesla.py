"""TESLA: MTT with the graph of one student step, and soft labels from the expert.

Every theta_i of the student is held constant where its step is differentiated, so that memory does not grow with N;
labels are the matched expert's, softmax(f(x; theta*_{t+M})). The finished set has the mean label of all experts after
their last epoch: the paper leaves open which expert labels it.

Reference:
    Cui et al., arXiv 2211.10586, sections 3.2 (constant memory) and 3.4 (soft labels).

Differs:
    The labels' own dependence on the images counts in the gradient. The official code halves the gradient besides.
    ``backprop: adjoint`` has the exact gradient in the same memory.
"""

from raydd.methods.method import Method

METHOD = Method(name="tesla", about=__doc__, defaults={"backprop": "truncated", "labels": "expert"})
