"""Convexified implicit gradients: a linearised network, solved on the synthetic set, must classify real images.

    L = CE(exp(s) f(x_t), y_t),  f(x) = J(x) tau + h(x) W,
    (tau, W) = argmin 1/2 |y_s - J_s tau - h_s W|^2 + lambda/2 (|W|^2 + |tau|^2),

with h the features of a network from a pool, J the derivative of its logits in its body's weights, s a learned scale.
The gradient in images and labels y_s is the direct one, and the implicit one through the solution. Labels are learned
as targets of a regression, from one-hot ones less 1/K; a network that is evaluated learns them by the squared error.

Reference:
    Loo et al., arXiv 2302.06755 (RCIG), Algorithm 1; values of its official code (yolky/RCIG).

Differs:
    The linear systems of tau and of the implicit gradient are solved by conjugate gradients, not Adam, which needs a
    search of learning rates; Adam takes the place of AdaBelief. The code's networks have softplus (of temperature 60)
    for ReLU at 32x32 pixels, a width that doubles with every block, and no normalisation; its evaluation is by Adam.
"""

from raydd.methods.method import Method

METHOD = Method(
    name="rcig",
    about=__doc__,
    match="kernel",
    defaults={
        "steps": 10000,
        "checkpoint_every": 100,
        "ema": 0.99,
        "lr": {"images": 0.003, "labels": 0.003, "lr": 0.0, "optimizer": "adam"},
        "kernel": {
            "of": "linearised",
            "batch_real": 1024,
            "regularisation": 5e-4,
            "pool": 30,
            "lr": 5e-5,
            "pool_steps": 15,
        },
    },
)
