"""Local optimisers give torch.optim's numbers; schedules theirs."""

import pytest
import torch

from fedcore.optimisers import stepper
from fedcore.schedules import learning_rate
from fedcore.settings.training import (
    Adam,
    Constant,
    Cosine,
    Exponential,
    Momentum,
    Sgd,
    StepDecay,
)

PAIRS = [
    (Sgd(), lambda p, decay: torch.optim.SGD(p, lr=0.1, weight_decay=decay)),
    (
        Momentum(momentum=0.9),
        lambda p, decay: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=decay),
    ),
    (
        Momentum(momentum=0.7, nesterov=True),
        lambda p, decay: torch.optim.SGD(
            p, lr=0.1, momentum=0.7, nesterov=True, weight_decay=decay
        ),
    ),
    (
        Adam(beta1=0.8, beta2=0.99, epsilon=1e-6),
        lambda p, decay: torch.optim.Adam(
            p, lr=0.1, betas=(0.8, 0.99), eps=1e-6, weight_decay=decay, foreach=False
        ),
    ),
]


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize(("settings", "theirs"), PAIRS, ids=["sgd", "momentum", "nesterov", "adam"])
def test_ten_steps_are_torch_optims_to_the_last_bit(settings, theirs, decay):
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(4, 3, generator=generator), torch.randn(3, generator=generator)]
    ours = [w.clone() for w in start]
    parameters = [w.clone().requires_grad_() for w in start]
    step = stepper(settings, learning_rate=0.1, weight_decay=decay)
    optimiser = theirs(parameters, decay)
    for _ in range(10):
        gradients = [torch.randn(w.shape, generator=generator) for w in start]
        step(ours, gradients)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        optimiser.step()
    for mine, parameter in zip(ours, parameters, strict=True):
        assert torch.equal(mine, parameter.detach())


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Constant(), [1, 1, 1, 1, 1]),
        (StepDecay(every=2, factor=0.1), [1, 1, 0.1, 0.1, 0.01]),
        (Exponential(factor=0.5), [1, 0.5, 0.25, 0.125, 0.0625]),
        (Cosine(floor=0.2), [1, 0.2 + 0.8 * 0.8535534, 0.6, 0.2 + 0.8 * 0.1464466, 0.2]),
    ],
)
def test_schedules_change_the_learning_rate_over_rounds(schedule, expected):
    found = [learning_rate(1.0, schedule, round=r, rounds=5) for r in range(1, 6)]
    assert found == pytest.approx(expected)
