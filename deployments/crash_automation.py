"""A flow run whose process was killed becomes Crashed.

A killed process cannot say that it has ended; its flow run would stay Running for ever. A
running flow sends heartbeats, and this automation, kept on the Prefect server, acts on their
absence.
"""

import os
from datetime import timedelta

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

from fedcore.errors import ConfigError

__all__ = ["CRASH_AFTER", "crash_after_seconds", "install_crash_automation"]

NAME = "fedrounds: flow runs without heartbeat are Crashed"
CRASH_AFTER = "FEDROUNDS_CRASH_AFTER"
DEFAULT_SECONDS = 120
# Prefect sends a heartbeat every 30 s at the most often; ten more for a busy machine.
LEAST_SECONDS = 40


def crash_after_seconds() -> int:
    """Return after how many seconds of silence a flow run is Crashed. Raises ConfigError."""
    given = os.environ.get(CRASH_AFTER, str(DEFAULT_SECONDS))
    if given.isascii() and given.isdigit() and int(given) >= LEAST_SECONDS:
        return int(given)
    raise ConfigError(
        f"{CRASH_AFTER} must be whole seconds, at least {LEAST_SECONDS}, for Prefect sends a "
        f"heartbeat every 30 s; {given!r} was given; set it to {DEFAULT_SECONDS}, or unset it."
    )


def install_crash_automation() -> None:
    """Create the automation on the configured server, or bring the one there up to date."""
    automation = _automation(crash_after_seconds())
    with get_client(sync_client=True) as client:
        present = client.read_automations_by_name(NAME)
        for each in present[1:]:
            client.delete_automation(each.id)
        if present:
            client.update_automation(present[0].id, automation)
        else:
            client.create_automation(automation)


def main() -> None:
    """Install it on your own Prefect server: `python -m deployments.crash_automation`."""
    install_crash_automation()
    print(f"{NAME}: after {crash_after_seconds()} s ({CRASH_AFTER})")


def _automation(seconds: int) -> AutomationCore:
    return AutomationCore(
        name=NAME,
        description=f"No sign of life for {seconds} s ({CRASH_AFTER}): its process is gone.",
        enabled=True,
        trigger=EventTrigger(
            # Runs that never sent a heartbeat are none of our business. Any other event (a
            # pause, an end) counts as a sign of life, so a run that has ended is left alone.
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.*"},
            for_each={"prefect.resource.id"},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=seconds),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                name=None,
                force=False,
                message=f"No heartbeat for {seconds} s: the process of this run is gone. "
                "Resume it with `fedrounds train --resume`.",
            )
        ],
    )


if __name__ == "__main__":
    main()
