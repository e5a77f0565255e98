"""Norm bounding: nobody's update counts for more than its length allows."""

from dataclasses import dataclass

from torch import Tensor

from fedcore.aggregators.aggregator import NOTHING, Aggregator, Context, refuse_too_few
from fedcore.aggregators.mean import weighted_mean

__all__ = ["norm_bounding"]


def norm_bounding(*, bound: float | None = None) -> Aggregator:
    """The weighted mean of rows_k min(1, bound / |rows_k|); None: bound is the rows' median norm.

    Weights count. What faulty workers add is at most their share of the weights times the bound,
    but in any direction. Sun et al. 2019, Can You Really Backdoor Federated Learning? (norm
    thresholding). The median norm as the bound is ours: there is no number to choose, and it
    shrinks as training ends.
    """
    return _NormBounding(bound)


@dataclass(frozen=True)
class _NormBounding:
    bound: float | None
    least: int = 1

    def __call__(self, rows: Tensor, weights: Tensor, context: Context = NOTHING) -> Tensor:
        refuse_too_few(rows, least=self.least, rule="norm_bounding")
        norms = rows.norm(dim=1)
        bound = float(norms.quantile(0.5)) if self.bound is None else self.bound
        # As bound / max(norm, bound), so that a row of zeros needs no case of its own; where all
        # norms are 0 it is 0 / 0, and the rows are what they should be already.
        scale = (bound / norms.clamp(min=bound)).nan_to_num(1.0)
        return weighted_mean(rows * scale[:, None], weights)
