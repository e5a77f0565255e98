"""Which tensors travel, and which every worker keeps to itself.

What stays is trained at each worker from the training's start and never sent: personal layers
(FedPer), batch normalisation (FedBN), or all but a few adapters (LoRA).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from fedcore.errors import ConfigError

__all__ = ["AllButLast", "AllButNorms", "Everything", "Exchange", "Matching", "kept_at_workers"]


class Exchange(Protocol):
    """A choice of tensors by name."""

    def stays(self, module: nn.Module) -> set[str]:
        """Names of the parameters and buffers that stay at each worker."""


@dataclass(frozen=True)
class Everything:
    """All tensors travel."""

    def stays(self, module: nn.Module) -> set[str]:
        """None."""
        return set()


@dataclass(frozen=True)
class Matching:
    """Only parameters whose names match one of the patterns travel, like `*lora_*`.

    Hu et al. 2022, LoRA, section 4: adapters alone are trained and exchanged.
    """

    patterns: tuple[str, ...]

    def stays(self, module: nn.Module) -> set[str]:
        """The others.

        Raises:
            ConfigError: a pattern that matches no tensor, or patterns that match all.
        """
        names = _tensors(module)
        for pattern in self.patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ConfigError(
                    f"Every pattern in strategy.exchange must match a tensor; given: {pattern}, "
                    f"and {_few(names)}; change it."
                )
        stays = {n for n in names if not any(fnmatchcase(n, p) for p in self.patterns)}
        if not stays:
            raise ConfigError(
                f"Patterns in strategy.exchange must leave out some tensor; given: all of "
                f"{_few(names)} match; leave strategy.exchange out, and all of them travel."
            )
        return stays


@dataclass(frozen=True)
class AllButLast:
    """The last layers stay, so many of those that have parameters: each worker's own head.

    Arivazhagan et al. 2019, Federated Learning with Personalization Layers, section 3.
    """

    layers: int

    def stays(self, module: nn.Module) -> set[str]:
        """The tensors of the last layers, in the order in which the module lists its parts."""
        owners = [name for name, part in module.named_modules() if _own(part)]
        return {
            f"{owner}.{name}".lstrip(".")
            for owner in owners[len(owners) - self.layers :]
            for name in _own(module.get_submodule(owner))
        }


@dataclass(frozen=True)
class AllButNorms:
    """Batch normalisation stays, its statistics as well as its parameters.

    Li et al. 2021, FedBN: Federated Learning on Non-IID Features via Local Batch Normalization,
    algorithm 1.
    """

    def stays(self, module: nn.Module) -> set[str]:
        """The tensors of every batch norm (or instance norm with statistics)."""
        return {
            f"{owner}.{name}".lstrip(".")
            for owner, part in module.named_modules()
            if isinstance(part, _NormBase)
            for name in _own(part)
        }


def kept_at_workers(exchange: Exchange, module: nn.Module) -> tuple[str, ...]:
    """Names of the tensors that stay, sorted.

    Raises:
        ConfigError: nothing would stay though something should, or nothing would travel.
    """
    every, stays = _tensors(module), exchange.stays(module)
    if isinstance(exchange, Everything):
        return ()
    if not stays:
        raise ConfigError(
            "A strategy with personal tensors must find some; given: a model without "
            f"{'batch norm' if isinstance(exchange, AllButNorms) else 'any that stay'}, with "
            f"{_few(every)}; choose fedavg, or another model."
        )
    if not any(p.requires_grad and name not in stays for name, p in module.named_parameters()):
        raise ConfigError(
            f"Some parameter that is trained must travel; given: none of {_few(every)} does; "
            "change the patterns in strategy.exchange, or the number of strategy.layers."
        )
    return tuple(sorted(stays))


def _tensors(module: nn.Module) -> list[str]:
    kept = module.state_dict().keys()
    buffers = [name for name, _ in module.named_buffers() if name in kept]
    return [name for name, _ in module.named_parameters()] + buffers


def _own(part: nn.Module) -> list[str]:
    """Names of the tensors that lie directly in a module and are kept with it."""
    kept = part.state_dict().keys()
    own = [name for name, _ in part.named_parameters(recurse=False)]
    return own + [name for name, _ in part.named_buffers(recurse=False) if name in kept]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (" and others" if len(names) > 8 else "")
