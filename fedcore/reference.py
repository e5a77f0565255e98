"""All of federated learning as nested loops: slow, plain, the oracle that tests compare with.

Written from the papers, not from the rest of fedcore: it shares the settings and the derivation
of random streams (or no two programs could draw the same batches) and nothing else. Read it to
know what a training should compute. Aggregators but the mean: `tests/oracle/aggregation.py`.

Letters: w the model of the server, w_k that of worker k, n_k its records, t_k its local steps.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from fedcore.data.dataset import Dataset
from fedcore.seeds import derive
from fedcore.settings import TrainingConfig
from fedcore.settings import strategies as kinds
from fedcore.settings.participation import Uniform
from fedcore.settings.training import Adam, Cosine, Exponential, Momentum, StepDecay

__all__ = ["Reference", "reference_training"]

Named = dict[str, Tensor]
Pull = Callable[[str, Tensor], Tensor | float]
"""What is added to the gradient of a parameter, from its name and its weight."""


@dataclass(frozen=True)
class Reference:
    """What the oracle found: the model, each round's losses by worker, and the model that each
    worker would use: the common one, or its own where the strategy gives it one."""

    tensors: dict[str, Tensor]
    losses: list[dict[str, float]]
    used: dict[str, nn.Module]


@dataclass
class _Worker:
    """A worker between rounds. `module` has its personal tensors, the others are overwritten with
    what it receives; `own` is Ditto's v_k; `drift` SCAFFOLD's c_k or FedDyn's gradient g_k."""

    data: Dataset
    module: nn.Module
    own: nn.Module | None = None
    drift: Named = field(default_factory=dict)


@dataclass
class _Answer:
    """What a round did to one worker; `start_loss` is F_k(w), before training."""

    trained: Named
    loss: float
    steps: int
    start_loss: float


def reference_training(
    config: TrainingConfig,
    model: nn.Module,
    workers: Mapping[str, Dataset],
    loss: nn.Module,
    *,
    drifts: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> Reference:
    """Train `model` (a copy of it) over the workers as the settings say.

    `drifts`: each worker's control variate c - c_k by parameter name, the same in every round.
    """
    model = copy.deepcopy(model)
    travels = _travelling(config, model)
    everybody = {name: _Worker(data, copy.deepcopy(model)) for name, data in workers.items()}
    server: Named = {}
    losses: list[dict[str, float]] = []
    for round in range(1, config.rounds + 1):
        names = list(everybody)
        if isinstance(config.sampling, Uniform):
            order = torch.randperm(
                len(names), generator=derive(config.seed, round, "", "sampling")
            ).tolist()
            names = [names[i] for i in sorted(order[: config.sampling.count])]
        found = {}
        for name in names:
            drift = (drifts or {}).get(name, {})
            found[name] = _take_part(
                config, model, everybody[name], loss, round, travels, server, drift
            )
            if isinstance(config.strategy, kinds.Sequential):
                _write(model, found[name].trained)
        if not isinstance(config.strategy, kinds.Sequential):
            records = {name: len(workers[name]) for name in names}
            _aggregate(config, model, found, records, len(workers), round, server)
        losses.append({name: answer.loss for name, answer in found.items()})
    for worker in everybody.values():
        _receive(worker.module, model, travels)
    return Reference(
        {k: v.detach().clone() for k, v in model.state_dict().items()},
        losses,
        {name: worker.own or worker.module for name, worker in everybody.items()},
    )


def _travelling(config: TrainingConfig, model: nn.Module) -> set[str]:
    """Names of the tensors that are exchanged.

    FedBN: all but batch normalisation. FedPer: all but the last layers, K_P of them. `exchange`:
    those that match a pattern.
    """
    strategy = config.strategy
    names = set(model.state_dict())
    layers = [
        (prefix, part)
        for prefix, part in model.named_modules()
        if any("." not in name for name in part.state_dict())
    ]
    stay: list[tuple[str, nn.Module]] = []
    if isinstance(strategy, kinds.Fedbn):
        stay = [(prefix, part) for prefix, part in layers if "BatchNorm" in type(part).__name__]
    elif isinstance(strategy, kinds.Fedper):
        stay = layers[-strategy.layers :]
    for prefix, part in stay:
        names -= {f"{prefix}.{name}".lstrip(".") for name in part.state_dict() if "." not in name}
    if isinstance(strategy, kinds.Averaging) and strategy.exchange:
        patterns = strategy.exchange
        names = {n for n in names if any(fnmatchcase(n, pattern) for pattern in patterns)}
    return names


def _take_part(
    config: TrainingConfig,
    model: nn.Module,
    worker: _Worker,
    loss: nn.Module,
    round: int,
    travels: set[str],
    server: Named,
    constant: Mapping[str, Tensor],
) -> _Answer:
    """One worker's round: receive, train, remember; the answer has what travels."""
    strategy, module, data, lr = config.strategy, worker.module, worker.data, _lr(config, round)
    _receive(module, model, travels)
    w = {name: p.detach().clone() for name, p in module.named_parameters()}
    shared = {name for name in w if name in travels}
    zeros = {name: torch.zeros_like(p) for name, p in w.items()}
    drift = {**zeros, **worker.drift}
    c = {name: server.get(f"c/{name}", zeros[name]) for name in w}
    pull: Pull = lambda name, weight: constant.get(name, 0.0)  # noqa: E731
    if isinstance(strategy, kinds.Fedprox | kinds.Fednova):  # Li et al. 2020, equation 2
        pull = lambda name, weight: strategy.mu * (weight - w[name])  # noqa: E731
    elif isinstance(strategy, kinds.Scaffold):  # Karimireddy et al. 2020, algorithm 1, line 10
        pull = lambda name, weight: c[name] - drift[name]  # noqa: E731
    elif isinstance(strategy, kinds.Feddyn):  # Acar et al. 2021, equation 1
        pull = lambda name, weight: strategy.alpha * (weight - w[name]) - drift[name]  # noqa: E731
    module.eval()
    with torch.no_grad():
        start_loss = float(loss(module(data.features), data.targets))
    mean, steps = _train(config, module, data, loss, round, pull)
    y = {name: p.detach().clone() for name, p in module.named_parameters()}
    if isinstance(strategy, kinds.Scaffold):  # line 12, option II
        worker.drift = {n: drift[n] - c[n] + (w[n] - y[n]) / (steps * lr) for n in shared}
    elif isinstance(strategy, kinds.Feddyn):  # grad L_k(w_k) as its first-order condition has it
        worker.drift = {n: drift[n] - strategy.alpha * (y[n] - w[n]) for n in shared}
    elif isinstance(strategy, kinds.Ditto):  # Li et al. 2021, algorithm 1: v_k beside w_k
        # The paper leaves open where v_k starts; here it is the first model received.
        worker.own = worker.own or copy.deepcopy(model)
        _train(
            config, worker.own, data, loss, round, lambda n, weight: strategy.pull * (weight - w[n])
        )
    state = module.state_dict()
    return _Answer({n: state[n].detach().clone() for n in travels}, mean, steps, start_loss)


def _receive(module: nn.Module, model: nn.Module, travels: set[str]) -> None:
    """Overwrite what is exchanged with the common model's; integer buffers are reset, too."""
    received = model.state_dict()
    integers = {name for name, value in received.items() if not value.is_floating_point()}
    _write(module, {n: received[n] for n in travels | integers}, integers=True)


def _write(module: nn.Module, values: Named, *, integers: bool = False) -> None:
    state = module.state_dict()
    with torch.no_grad():
        for name, value in values.items():
            if integers or value.is_floating_point():
                state[name].copy_(value)


def _aggregate(
    config: TrainingConfig,
    model: nn.Module,
    found: Mapping[str, _Answer],
    records: Mapping[str, int],
    everybody: int,
    round: int,
    server: Named,
) -> None:
    """Move the server's model.

    Float buffers are averaged by the same weights, scaled to sum to 1, and not optimised: they
    are estimates, not weights. Integer buffers stay as they were.
    """
    names, lr = sorted(found), _lr(config, round)
    weight, scale = _weights(config, model, found, records, lr)
    total = sum(weight.values())
    parameters = {name for name, _ in model.named_parameters()}
    moved: Named = {}
    for key, value in model.state_dict().items():
        if key not in found[names[0]].trained or not value.is_floating_point():
            continue
        w = value.double()
        deltas = {name: found[name].trained[key].double() - w for name in names}
        step = torch.zeros_like(w)
        for name in names:
            step += weight[name] * deltas[name]
        if key in parameters:
            steps = {name: found[name].steps for name in names}
            moved[key] = w + _server_step(
                config, key, scale * step, deltas, steps, everybody, lr, server
            )
        else:
            moved[key] = w + step / total
    _write(model, moved)


def _weights(
    config: TrainingConfig,
    model: nn.Module,
    found: Mapping[str, _Answer],
    records: Mapping[str, int],
    lr: float,
) -> tuple[dict[str, float], float]:
    """How much each worker's w_k - w counts, and by what their sum is multiplied."""
    strategy = config.strategy
    if isinstance(strategy, kinds.Scaffold | kinds.Feddyn):  # 1 / |S|
        return dict.fromkeys(found, 1 / len(found)), 1.0
    n = sum(records.values())
    p = {name: records[name] / n for name in found}
    if isinstance(strategy, kinds.Fednova):  # Wang et al. 2020, equations 6 and 8
        a = {name: _influence(config, answer.steps, lr) for name, answer in found.items()}
        return {k: p[k] / a[k] for k in found}, sum(p[k] * a[k] for k in found)
    if isinstance(strategy, kinds.Qfedavg):  # Li et al. 2020 (fair), algorithm 2
        q, lipschitz = strategy.q, 1 / lr
        w = {name: p.detach() for name, p in model.named_parameters()}
        h = 0.0
        for answer in found.values():
            norm = sum(
                float(((answer.trained[n] - w[n]).double() * lipschitz).square().sum()) for n in w
            )
            h += q * answer.start_loss ** (q - 1) * norm + lipschitz * answer.start_loss**q
        return {k: answer.start_loss**q * lipschitz for k, answer in found.items()}, 1 / h
    return p, 1.0  # McMahan et al. 2017: n_k / n


def _influence(config: TrainingConfig, steps: int, lr: float) -> float:
    """|a|: how far all gradients of a round move the weights, over lr.

    a_s of the gradient of step s: what one unit of it, met by momentum and by the pull back to w,
    has moved the weights by the last step.
    """
    optimiser, mu = config.local.optimiser, getattr(config.strategy, "mu", 0.0)
    rho = optimiser.momentum if isinstance(optimiser, Momentum) else 0.0
    total = 0.0
    for s in range(steps):
        velocity, moved = 0.0, 0.0
        for step in range(s, steps):
            velocity = rho * velocity + (1.0 if step == s else 0.0) - lr * mu * moved
            moved += velocity
        total += moved
    return total


def _server_step(
    config: TrainingConfig,
    key: str,
    step: Tensor,
    deltas: Named,
    steps: Mapping[str, int],
    everybody: int,
    lr: float,
    server: Named,
) -> Tensor:
    """What is added to one parameter of the server's, which keeps what it must in `server`."""
    strategy, zero = config.strategy, torch.zeros_like(step)
    if isinstance(strategy, kinds.Scaffold):  # Karimireddy et al. 2020, lines 16 and 17
        c = server.get(f"c/{key}", zero)
        changes = sum((deltas[k] / (-lr * steps[k]) - c for k in sorted(deltas)), start=zero)
        server[f"c/{key}"] = c + changes / everybody
        return strategy.server_learning_rate * step
    if isinstance(strategy, kinds.Feddyn):  # Acar et al. 2021, algorithm 1
        h = server.get(f"h/{key}", zero)
        h = h - strategy.alpha * sum(deltas.values(), start=zero) / everybody
        server[f"h/{key}"] = h
        return step - h / strategy.alpha
    if isinstance(strategy, kinds.Fedavgm):  # Hsu et al. 2019, section 4.3
        server[f"m/{key}"] = strategy.momentum * server.get(f"m/{key}", zero) + step
        return strategy.server_learning_rate * server[f"m/{key}"]
    if isinstance(strategy, kinds.Fedadagrad | kinds.Fedadam | kinds.Fedyogi):
        # Reddi et al. 2021, algorithm 2
        tau = strategy.tau
        m, v = server.get(f"m/{key}", zero), server.get(f"v/{key}", zero + tau**2)
        m = strategy.beta1 * m + (1 - strategy.beta1) * step
        if isinstance(strategy, kinds.Fedadagrad):
            v = v + step**2
        elif isinstance(strategy, kinds.Fedadam):
            v = strategy.beta2 * v + (1 - strategy.beta2) * step**2
        else:
            v = v - (1 - strategy.beta2) * step**2 * torch.sign(v - step**2)
        server[f"m/{key}"], server[f"v/{key}"] = m, v
        return strategy.server_learning_rate * m / (v.sqrt() + tau)
    return step


def _train(
    config: TrainingConfig,
    model: nn.Module,
    data: Dataset,
    loss: nn.Module,
    round: int,
    pull: Pull,
) -> tuple[float, int]:
    """Train in place; return the mean of the batch losses, weighted by records, and the steps."""
    local = config.local
    one_step = isinstance(config.strategy, kinds.Fedsgd)
    lr = _lr(config, round)
    slots: list[Named] = [{} for _ in model.parameters()]
    model.train()
    total, seen, steps = 0.0, 0, 0
    for batch in _batches(config, len(data), round):
        steps += 1
        model.zero_grad()
        value = loss(model(data.features[batch]), data.targets[batch])
        value.backward()
        total, seen = total + value.item() * len(batch), seen + len(batch)
        with torch.no_grad():
            gradients: Sequence[Tensor] = [
                (torch.zeros_like(p) if p.grad is None else p.grad) + pull(name, p)
                for name, p in model.named_parameters()
            ]
            if local.clip_norm is not None:
                norm = math.sqrt(sum(float((g.double() ** 2).sum()) for g in gradients))
                if norm > local.clip_norm:
                    gradients = [g * (local.clip_norm / norm) for g in gradients]
            for p, g, slot in zip(model.parameters(), gradients, slots, strict=True):
                g = g + local.weight_decay * p
                p.sub_(lr * (g if one_step else _direction(config, g, slot, steps)))
    return total / seen, steps


def _direction(config: TrainingConfig, g: Tensor, slot: Named, count: int) -> Tensor:
    optimiser = config.local.optimiser
    if isinstance(optimiser, Momentum):
        slot["v"] = optimiser.momentum * slot["v"] + g if "v" in slot else g
        return g + optimiser.momentum * slot["v"] if optimiser.nesterov else slot["v"]
    if isinstance(optimiser, Adam):
        b1, b2 = optimiser.beta1, optimiser.beta2
        slot["m"] = b1 * slot.get("m", torch.zeros_like(g)) + (1 - b1) * g
        slot["s"] = b2 * slot.get("s", torch.zeros_like(g)) + (1 - b2) * g * g
        m, s = slot["m"] / (1 - b1**count), slot["s"] / (1 - b2**count)
        return m / (s.sqrt() + optimiser.epsilon)
    return g


def _lr(config: TrainingConfig, round: int) -> float:
    base, schedule = config.local.learning_rate, config.local.schedule
    if isinstance(schedule, StepDecay):
        return base * schedule.factor ** math.floor((round - 1) / schedule.every)
    if isinstance(schedule, Exponential):
        return base * schedule.factor ** (round - 1)
    if isinstance(schedule, Cosine):
        share = (round - 1) / max(config.rounds - 1, 1)
        return base * (
            schedule.floor + (1 - schedule.floor) * 0.5 * (1 + math.cos(math.pi * share))
        )
    return base


def _batches(config: TrainingConfig, records: int, round: int) -> list[list[int]]:
    local = config.local
    if isinstance(config.strategy, kinds.Fedsgd):
        return [list(range(records))]
    generator = derive(config.seed, round, "", "order")
    size = local.batch_size or records
    batches: list[list[int]] = []
    passes = 0
    while True:
        order = list(range(records))
        if local.shuffle:
            order = torch.randperm(records, generator=generator).tolist()
        batches += [order[i : i + size] for i in range(0, records, size)]
        passes += 1
        if local.steps is not None and len(batches) >= local.steps:
            return batches[: local.steps]
        if local.steps is None and passes == local.epochs:
            return batches
