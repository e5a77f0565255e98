"""One model measured on many workers' records in one pass.

Letters: K workers, N records of all of them.
"""

import torch

from fedcore.cohort.losses import pads, record_losses
from fedcore.contributions import Contributions
from fedcore.data.holdings import Holdings
from fedcore.initial import load_into
from fedcore.local import module_for
from fedcore.losses import loss_of
from fedcore.metrics import evaluating, meter, outputs_of
from fedcore.values import Brief

__all__ = ["evaluate_together", "measures_together"]


def measures_together(brief: Brief) -> bool:
    """Whether all workers use the same model, and its loss is known record by record."""
    return brief.personal is None and pads(loss_of(brief.blueprint.model.loss))


def evaluate_together(brief: Brief, data: Holdings) -> Contributions:
    """Loss and metrics of the brief's model as sums over each worker's `seen` records, [K].

    What K workers find apart, but for rounding: a loss is added up in float64 record by record,
    not as a mean times records.
    """
    module, settings = module_for(brief.blueprint), brief.blueprint.model
    load_into(module, brief.model)
    measuring = meter(settings.loss, settings.metrics, classes=len(data.records.classes))
    owners = torch.arange(len(data)).repeat_interleave(data.sizes)
    sums = {
        name: torch.zeros(len(data), dtype=torch.float64) for name in ("loss", *measuring.metrics)
    }
    first = 0
    with evaluating(module):
        for outputs, targets in outputs_of(module, data.records):
            here = owners[first : first + len(targets)]
            first += len(targets)
            each = {name: metric(outputs, targets) for name, metric in measuring.metrics.items()}
            each["loss"] = record_losses(measuring.loss, outputs, targets)
            for name, values in each.items():
                sums[name].index_add_(0, here, values.double())
    seen = data.sizes.double()
    return Contributions(data.workers, seen, {**sums, "seen": seen})
