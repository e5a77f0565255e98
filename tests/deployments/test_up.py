"""`fedrounds up`: addresses, a clean end, a taken port."""

import signal
import socket
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

UP = """
import sys
from deployments.up import up
from fedcore.errors import ConfigError
try:
    up(prefect_port=int(sys.argv[1]), mlflow_port=int(sys.argv[2]))
except ConfigError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""


def free_ports() -> list[str]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return [str(one.getsockname()[1]), str(other.getsockname()[1])]


def read_until(process, last: str) -> str:
    text = ""
    while last not in text:
        line = process.stdout.readline()
        if not line:
            pytest.fail(f"it ended after {text!r}, {process.stderr.read()}")
        text += line
    return text


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_addresses_are_printed_and_it_ends_in_order(
    how: signal.Signals, start, tmp_path: Path
) -> None:
    prefect, mlflow = free_ports()
    process = start(UP, prefect, mlflow, cwd=tmp_path)
    text = read_until(process, "Ctrl-C ends all of this")
    assert f"export PREFECT_API_URL=http://127.0.0.1:{prefect}/api\n" in text
    assert f"export MLFLOW_TRACKING_URI=http://127.0.0.1:{mlflow}\n" in text
    assert "digits-nightly" in text
    for url in (f"http://127.0.0.1:{prefect}/deployments", f"http://127.0.0.1:{mlflow}"):
        with urlopen(Request(url, headers={"Accept": "text/html"})) as page:
            assert b"<html" in page.read().lower()
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "Stopped.\n")
    assert (tmp_path / "mlflow.db").exists()
    for port in (prefect, mlflow):
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", int(port)))


def test_named_servers_are_used_and_their_passwords_not_shown(
    start, prefect_url: str, tmp_path: Path
) -> None:
    tracking = "http://me:secret@127.0.0.1:9"
    process = start(
        UP, "1", "1", cwd=tmp_path, PREFECT_API_URL=prefect_url, MLFLOW_TRACKING_URI=tracking
    )
    text = read_until(process, "Ctrl-C ends all of this")
    assert f"{prefect_url} (yours, from PREFECT_API_URL)" in text
    assert "http://127.0.0.1:9 (yours, from MLFLOW_TRACKING_URI)" in text
    assert "secret" not in text
    assert not (tmp_path / "mlflow.db").exists()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0


@pytest.mark.parametrize("taken", ["--prefect-port", "--mlflow-port"])
def test_taken_port_is_one_line_and_status_2(taken: str, start, tmp_path: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = str(busy.getsockname()[1])
        ports = [port, "0"] if taken == "--prefect-port" else ["0", port]
        process = start(UP, *ports, cwd=tmp_path)
        _, err = process.communicate()
    assert process.returncode == 2
    assert err.count("\n") == 1
    assert port in err
    assert taken in err
