"""What this process tells Prefect, before Prefect is imported.

Prefect reads its settings once, when it is imported, and that import takes most of a second.
The command has to know earlier whether a server is configured, so that its own can start
while Prefect, torch and MLflow are being imported.
"""

import os
import tomllib
from pathlib import Path

__all__ = ["CLIENT_DEFAULTS", "apply_client_defaults", "configured"]

# Each of them holds only where the user has set nothing, in whatever place Prefect reads.
CLIENT_DEFAULTS = {
    # The terminal belongs to the progress of the training; the API gets every log line.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_HANDLERS_DEBUG_LEVEL": "CRITICAL",
    # What the training says belongs in its flow run's log.
    "PREFECT_LOGGING_EXTRA_LOGGERS": "fedrounds",
    # A line for every task that went well would bury it.
    "PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL": "WARNING",
    # Pickle otherwise: whoever can write to the result storage could run code here.
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    # The shortest that Prefect allows: how soon a killed training can be noticed.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    "DO_NOT_TRACK": "1",
}


def apply_client_defaults() -> None:
    """Put our defaults into the environment of this process and its children."""
    for name, value in CLIENT_DEFAULTS.items():
        if configured(name) is None:
            os.environ[name] = value


def configured(name: str) -> str | None:
    """Return what the user has set for `name` (`PREFECT_...`), or None.

    Looks where Prefect looks, in its order: environment, `.env`, `prefect.toml`,
    `pyproject.toml`, the active profile.
    """
    if name in os.environ:
        return os.environ[name]
    here = Path.cwd()
    found = _dotenv(here / ".env").get(name)
    if found is None:
        found = _nested(_toml(here / "prefect.toml"), name)
    if found is None:
        tools = _toml(here / "pyproject.toml").get("tool")
        found = _nested(tools.get("prefect") if isinstance(tools, dict) else None, name)
    if found is None:
        found = _profile().get(name)
    return found


def _dotenv(path: Path) -> dict[str, str]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    pairs = (line.removeprefix("export ").partition("=") for line in lines if "=" in line)
    return {key.strip(): value.strip().strip("\"'") for key, _, value in pairs}


def _toml(path: Path) -> dict[str, object]:
    # A broken file is Prefect's to complain about.
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError):
        return {}


def _nested(table: object, name: str) -> str | None:
    """Find PREFECT_SERVER_API_HOST in `{"server": {"api": {"host": ...}}}`."""
    words = name.removeprefix("PREFECT_").lower().split("_")
    for cut in range(1, len(words) + 1):
        inner = table.get("_".join(words[:cut])) if isinstance(table, dict) else None
        if isinstance(inner, dict):
            return _nested(inner, "_".join(words[cut:]))
        if inner is not None and cut == len(words):
            return str(inner)
    return None


def _profile() -> dict[str, str]:
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    file = Path(os.environ.get("PREFECT_PROFILES_PATH", home / "profiles.toml")).expanduser()
    data = _toml(file)
    profiles, active = data.get("profiles"), os.environ.get("PREFECT_PROFILE", data.get("active"))
    chosen = profiles.get(active) if isinstance(profiles, dict) else None
    return {key: str(value) for key, value in chosen.items()} if isinstance(chosen, dict) else {}
