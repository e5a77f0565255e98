"""Our own Prefect server records all, says nothing, and gives way to a configured one."""

import json
import sqlite3
from pathlib import Path

import pytest

from deployments.prefect_server import own_prefect_server
from deployments.prefect_settings import configured

TASK_RUNS = 600
MANY = """
import json, sys
from pathlib import Path
from deployments.prefect_api import prefect_api
with prefect_api(log=Path("prefect.log")) as api:
    from prefect import flow, task
    from prefect.cache_policies import NO_CACHE
    from prefect.logging import get_run_logger
    from prefect.task_runners import ThreadPoolTaskRunner
    from deployments.drain import counted_task_runs, drain

    @task(cache_policy=NO_CACHE)
    def number(i):
        if i % 100 == 7:
            raise ValueError("a task that fails is recorded, too")
        return i

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=8))
    def many(count):
        get_run_logger().info("a line for the API alone")
        number.map(range(count)).wait()
        return "done"

    api.wait_ready()
    with counted_task_runs() as count:
        many(int(sys.argv[1]))
        drained = drain(count)
print(json.dumps([drained.executed, drained.recorded, drained.complete]))
"""


def test_every_task_run_is_recorded_from_an_empty_home_and_the_terminal_stays_quiet(
    start, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    process = start(MANY, str(TASK_RUNS), cwd=tmp_path, PREFECT_HOME=str(home))
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert json.loads(out) == [TASK_RUNS, TASK_RUNS, True]
    with sqlite3.connect(home / "prefect.db") as database:
        states = "SELECT state_type, count(*) FROM task_run GROUP BY 1 ORDER BY 1"
        assert database.execute(states).fetchall() == [("COMPLETED", 594), ("FAILED", 6)]
        events = "SELECT count(*) FROM events WHERE event IN (?, ?)"
        names = ("prefect.task-run.Completed", "prefect.task-run.Failed")
        assert database.execute(events, names).fetchone() == (TASK_RUNS,)
        line = "SELECT count(*) FROM log WHERE message = 'a line for the API alone'"
        assert database.execute(line).fetchone() == (1,)


def test_configured_api_is_used_and_nothing_is_started(
    start, prefect_url: str, tmp_path: Path
) -> None:
    process = start(MANY, "3", cwd=tmp_path, PREFECT_API_URL=prefect_url)
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert json.loads(out) == [3, 3, True]
    assert not (tmp_path / "prefect.log").exists()


PLACES = {
    ".env": "PREFECT_API_URL=http://there:1/api\n",
    "prefect.toml": '[api]\nurl = "http://there:1/api"\n',
    "pyproject.toml": '[tool.prefect.api]\nurl = "http://there:1/api"\n',
    "home/profiles.toml": 'active = "p"\n[profiles.p]\nPREFECT_API_URL = "http://there:1/api"\n',
    "nowhere": "",
}
COMPARE = """
from deployments.prefect_settings import configured
ours = configured("PREFECT_API_URL")
from prefect.settings import get_current_settings
print([ours, get_current_settings().api.url])
"""


@pytest.mark.parametrize("place", PLACES)
def test_settings_are_found_where_prefect_finds_them(start, place: str, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / place).write_text(PLACES[place])
    process = start(COMPARE, cwd=tmp_path, PREFECT_HOME=str(tmp_path / "home"))
    out, err = process.communicate()
    expected = None if place == "nowhere" else "http://there:1/api"
    assert out == f"{[expected, expected]}\n", err


def test_environment_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prefect.toml").write_text(PLACES["prefect.toml"])
    monkeypatch.setenv("PREFECT_API_URL", "http://here:1/api")
    assert configured("PREFECT_API_URL") == "http://here:1/api"


ASK = """
from deployments.prefect_api import prefect_api
from fedcore.errors import ConfigError
with prefect_api(log=None) as api:
    try:
        api.wait_ready()
        print("answers")
    except ConfigError as error:
        print(error)
"""


def test_unreachable_api_is_one_clear_error_without_its_password(start, tmp_path: Path) -> None:
    process = start(ASK, cwd=tmp_path, PREFECT_API_URL="http://me:secret@127.0.0.1:9/api")
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert "secret" not in out
    assert "http://127.0.0.1:9/api gave: " in out
    assert "unset PREFECT_API_URL" in out


def test_basic_authentication_passes_through(
    start, clean: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {**clean, "PREFECT_SERVER_API_AUTH_STRING": "me:secret"}.items():
        monkeypatch.setenv(name, value)
    with own_prefect_server(tmp_path / "prefect.log") as url:
        said = {}
        for password in ("secret", "wrong"):
            given = {"PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": f"me:{password}"}
            out, err = start(ASK, cwd=tmp_path, **given).communicate()
            assert err == ""
            said[password] = out
    assert said["secret"] == "answers\n"
    assert "401 Unauthorized; is PREFECT_API_AUTH_STRING right?" in said["wrong"]
    assert "me:wrong" not in said["wrong"]
