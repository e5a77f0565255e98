"""When a training ends before its last round."""

from collections.abc import Sequence

from fedcore.settings.participation import StopSettings
from fedcore.values import RoundRecord

__all__ = ["why_stop"]


def why_stop(settings: StopSettings, records: Sequence[RoundRecord]) -> str:
    """Why to end after these rounds, as one line; empty: go on.

    It follows from the history alone, so a resumed training ends in the same round.
    """
    spent = sum(record.metrics["round_seconds"] for record in records) / 60
    if settings.minutes is not None and spent >= settings.minutes:
        return f"the rounds took {spent:.1f} of {settings.minutes:g} minutes"
    sign = 1.0 if settings.metric.endswith("loss") else -1.0  # smaller is better, with this sign
    found = [
        (record.round, sign * record.metrics[settings.metric])
        for record in records
        if settings.metric in record.metrics
    ]
    if not found:
        return ""
    name, (round, last) = settings.metric, found[-1]
    if settings.target is not None and last <= sign * settings.target:
        return f"{name} reached {sign * last:.4g}, the target being {settings.target:g}"
    best_round, best = found[0]
    for at, value in found[1:]:
        if value < best - settings.least_change:
            best_round, best = at, value
    if settings.patience is not None and round - best_round >= settings.patience:
        return (
            f"{name} has not improved for {round - best_round} rounds; it was {sign * best:.4g} "
            f"in round {best_round}"
        )
    return ""
