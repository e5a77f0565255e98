"""Strategies by name: each a composition of parts, with the paper it comes from.

`fedcore.strategy.Strategy` says what the parts are.
"""

from dataclasses import replace

from fedcore.aggregators import Aggregator, aggregator_of
from fedcore.drift import DynamicRegularisation, VarianceReduction
from fedcore.entrypoints import load_callable
from fedcore.errors import ConfigError
from fedcore.personal import AllButLast, AllButNorms, Everything, Exchange, Matching
from fedcore.rules import Plain, Proximal
from fedcore.servers import adagrad, adam, momentum, sgd, yogi
from fedcore.settings import strategies as settings
from fedcore.settings.strategies import StrategySettings
from fedcore.strategy import Strategy
from fedcore.weightings import Evenly, Fairly, Normalised

__all__ = [
    "centralised",
    "ditto",
    "fedadagrad",
    "fedadam",
    "fedavg",
    "fedavgm",
    "fedbn",
    "feddyn",
    "fednova",
    "fedper",
    "fedprox",
    "fedsgd",
    "fedyogi",
    "qfedavg",
    "scaffold",
    "sequential",
    "strategy_of",
]


def fedavg() -> Strategy:
    """Local training, then the mean weighted by records. McMahan et al. 2017, algorithm 1."""
    return Strategy("fedavg")


def fedsgd() -> Strategy:
    """One gradient step on all records, then the mean weighted by records: a step of gradient
    descent on the pooled data. McMahan et al. 2017, section 2 (FederatedSGD)."""
    return Strategy("fedsgd", one_step=True)


def fedprox(*, mu: float) -> Strategy:
    """FedAvg with mu/2 |w - w0|^2 added to every worker's loss; mu = 0 is FedAvg.
    Li et al. 2020, Federated Optimization in Heterogeneous Networks, algorithm 2."""
    return Strategy("fedprox", rule=Proximal(mu))


def scaffold(*, lr: float = 1.0) -> Strategy:
    """Control variates against client drift; every worker counts the same.
    Karimireddy et al. 2020, SCAFFOLD, algorithm 1, option II."""
    return Strategy(
        "scaffold",
        weighting=lambda plan: Evenly(),
        server=sgd(lr=lr),
        correction=VarianceReduction(),
    )


def fednova(*, mu: float = 0.0) -> Strategy:
    """Updates divided by the local steps they took; mu > 0 with a pull as in FedProx.
    Wang et al. 2020, Tackling the Objective Inconsistency Problem, equations 6 and 8."""
    return Strategy(
        "fednova",
        rule=Proximal(mu) if mu else Plain(),
        weighting=lambda plan: Normalised.of(
            plan.optimiser, learning_rate=plan.learning_rate, mu=mu
        ),
    )


def feddyn(*, alpha: float) -> Strategy:
    """A penalty that each worker adapts; every worker counts the same.
    Acar et al. 2021, Federated Learning Based on Dynamic Regularization, algorithm 1."""
    return Strategy(
        "feddyn", weighting=lambda plan: Evenly(), correction=DynamicRegularisation(alpha)
    )


def fedavgm(*, lr: float = 1.0, beta: float = 0.9) -> Strategy:
    """FedAvg with momentum at the server. Hsu et al. 2019, section 4.3."""
    return Strategy("fedavgm", server=momentum(lr=lr, momentum=beta))


def fedadagrad(*, lr: float = 0.1, beta1: float = 0.0, tau: float = 1e-3) -> Strategy:
    """Adagrad at the server. Reddi et al. 2021, algorithm 2 (FedAdagrad)."""
    return Strategy("fedadagrad", server=adagrad(lr=lr, beta1=beta1, tau=tau))


def fedadam(
    *, lr: float = 0.1, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3
) -> Strategy:
    """Adam at the server. Reddi et al. 2021, algorithm 2 (FedAdam)."""
    return Strategy("fedadam", server=adam(lr=lr, beta1=beta1, beta2=beta2, tau=tau))


def fedyogi(
    *, lr: float = 0.1, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3
) -> Strategy:
    """Yogi at the server. Reddi et al. 2021, algorithm 2 (FedYogi)."""
    return Strategy("fedyogi", server=yogi(lr=lr, beta1=beta1, beta2=beta2, tau=tau))


def qfedavg(*, q: float) -> Strategy:
    """Workers with a higher loss count more. Li et al. 2020, Fair Resource Allocation in
    Federated Learning, algorithm 2 (q-FedAvg), with L = 1 / learning rate."""
    return Strategy("qfedavg", weighting=lambda plan: Fairly(q, plan.learning_rate))


def fedbn() -> Strategy:
    """FedAvg; batch normalisation stays at each worker. Li et al. 2021, FedBN, algorithm 1."""
    return Strategy("fedbn", exchange=AllButNorms())


def fedper(*, layers: int = 1) -> Strategy:
    """FedAvg; the last layers stay at each worker. Arivazhagan et al. 2019, algorithm 1."""
    return Strategy("fedper", exchange=AllButLast(layers))


def ditto(*, pull: float) -> Strategy:
    """FedAvg, and a whole model of each worker's own held near the common one.
    Li et al. 2021, Ditto, algorithm 1."""
    return Strategy("ditto", anchor=pull)


def sequential() -> Strategy:
    """The model visits one worker after the other. Sheller et al. 2019 (cyclic institutional
    incremental learning); the PySyft tutorial, part 2."""
    return Strategy("sequential", sequential=True)


def centralised(strategy: Strategy) -> Strategy:
    """The baseline without federation: one worker holds all records and its model is taken as it
    is; local training is as under `strategy`, less what only makes sense for several workers."""
    return Strategy("centralised", sequential=True, one_step=strategy.one_step)


def strategy_of(given: StrategySettings) -> Strategy:
    """The strategy that the settings name.

    Raises:
        ConfigError: a custom one that cannot be loaded, or makes something else.
    """
    made = _named(given)
    if isinstance(given, settings.Averaging):
        aggregator: Aggregator = aggregator_of(given.aggregator)
        made = replace(made, aggregator=aggregator, exchange=_exchange(given, made))
    return made


def _named(given: StrategySettings) -> Strategy:
    match given:
        case settings.Fedavg():
            return fedavg()
        case settings.Fedsgd():
            return fedsgd()
        case settings.Fedprox(mu=mu):
            return fedprox(mu=mu)
        case settings.Scaffold(server_learning_rate=lr):
            return scaffold(lr=lr)
        case settings.Fednova(mu=mu):
            return fednova(mu=mu)
        case settings.Feddyn(alpha=alpha):
            return feddyn(alpha=alpha)
        case settings.Fedavgm(server_learning_rate=lr, momentum=beta):
            return fedavgm(lr=lr, beta=beta)
        case settings.Fedadagrad(server_learning_rate=lr, beta1=beta1, tau=tau):
            return fedadagrad(lr=lr, beta1=beta1, tau=tau)
        case settings.Fedadam(server_learning_rate=lr, beta1=beta1, beta2=beta2, tau=tau):
            return fedadam(lr=lr, beta1=beta1, beta2=beta2, tau=tau)
        case settings.Fedyogi(server_learning_rate=lr, beta1=beta1, beta2=beta2, tau=tau):
            return fedyogi(lr=lr, beta1=beta1, beta2=beta2, tau=tau)
        case settings.Qfedavg(q=q):
            return qfedavg(q=q)
        case settings.Fedbn():
            return fedbn()
        case settings.Fedper(layers=layers):
            return fedper(layers=layers)
        case settings.Ditto(pull=pull):
            return ditto(pull=pull)
        case settings.Sequential():
            return sequential()
        case settings.CustomStrategy():
            return _custom(given)


def _custom(given: settings.CustomStrategy) -> Strategy:
    make = load_callable(given.entrypoint, arguments=given.arguments, what="the strategy")
    made = make()
    if not isinstance(made, Strategy):
        raise ConfigError(
            "A custom strategy must be made by a function that returns a fedcore Strategy; given: "
            f"{given.entrypoint}, which returns a {type(made).__name__}; return Strategy(...)."
        )
    return made


def _exchange(given: settings.Averaging, made: Strategy) -> Exchange:
    if not given.exchange:
        return made.exchange
    if not isinstance(made.exchange, Everything):
        raise ConfigError(
            f"What travels must be said once; given: strategy.exchange with {made.name}, which "
            "says it too; leave exchange out, or choose fedavg."
        )
    return Matching(tuple(given.exchange))
