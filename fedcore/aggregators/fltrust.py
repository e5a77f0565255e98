"""FLTrust: workers count as far as they point where the coordinator's own records point."""

from dataclasses import dataclass

from torch import Tensor

from fedcore.aggregators.aggregator import NOTHING, Aggregator, Context, refuse_too_few

__all__ = ["fltrust"]


def fltrust() -> Aggregator:
    """sum_k s_k (|g| / |rows_k|) rows_k / sum_k s_k with s_k = max(0, cos(rows_k, g)), where g is
    the coordinator's own update (context.trusted); 0 where nobody points its way.

    Bears any number of faulty workers, as far as g can be trusted: its records must be like the
    workers'. Weights do not count. Cao et al. 2021, FLTrust: Byzantine-robust Federated Learning
    via Trust Bootstrapping, algorithm 2.
    """
    return _FLTrust()


@dataclass(frozen=True)
class _FLTrust:
    least: int = 1
    trusts: bool = True

    def __call__(self, rows: Tensor, weights: Tensor, context: Context = NOTHING) -> Tensor:
        refuse_too_few(rows, least=self.least, rule="fltrust")
        g = context.trusted
        if g is None:
            raise ValueError(
                "The aggregator fltrust must have the coordinator's own update; given: none in "
                "this round; give the coordinator records to train on, or choose another "
                "aggregator."
            )
        # Divided by their norms first, lest products of huge or tiny rows leave float64.
        units = rows / _not_zero(rows.norm(dim=1))[:, None]
        length = g.norm()
        trust = (units @ (g / _not_zero(length))).clamp(min=0)
        step: Tensor = trust @ units * (length / _not_zero(trust.sum()))
        return step


def _not_zero(lengths: Tensor) -> Tensor:
    """1 in the place of 0: what is divided by it is 0 and stays so."""
    return lengths.where(lengths > 0, lengths.new_ones(()))
