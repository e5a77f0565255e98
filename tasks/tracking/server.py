"""Which MLflow is meant, and whether it answers."""

import fcntl
import hashlib
import os
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from mlflow import MlflowClient, MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from sqlalchemy.exc import SQLAlchemyError

from fedcore.errors import ConfigError
from tasks.tracking.artifacts import database_file

__all__ = [
    "TROUBLE",
    "check_reachable",
    "client",
    "first_line",
    "prepare",
    "public",
    "tracking_uri",
]

TROUBLE = (MlflowException, SQLAlchemyError, OSError)
"""What the way to MLflow can raise; requests' errors are OSErrors."""
CONNECT_SECONDS = 4
"""How long a server may take to accept a connection, and again to answer; there are two tries."""
DATABASE_SECONDS = 10
ADVICE = "start it, or correct or unset MLFLOW_TRACKING_URI"


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, else `mlflow.db` in the working folder; never MLflow's file store."""
    return (
        os.environ.get("MLFLOW_TRACKING_URI", "").strip()
        or f"sqlite:///{Path('mlflow.db').absolute()}"
    )


def public(uri: str) -> str:
    """The URI without what could be a secret: user, password, query."""
    parts = urlsplit(uri)
    host = parts.netloc.rpartition("@")[2]
    # geturl would turn sqlite:////file into sqlite:/file.
    return f"{parts.scheme}://{host}{parts.path}" if parts.scheme else uri


def first_line(error: BaseException, uri: str) -> str:
    """An error in one line, without the secrets of `uri`."""
    text = (str(error).strip().splitlines() or [""])[0].replace(uri, public(uri))
    secret = urlsplit(uri).netloc.rpartition("@")[0]
    for part in filter(None, [secret, urlsplit(uri).password]):
        text = text.replace(part, "***")
    return text if len(text) <= 300 else text[:297] + "..."


def client() -> MlflowClient:
    """A client of the tracking URI, whatever MLflow's process-wide settings say."""
    uri = tracking_uri()
    _connect(uri)
    return MlflowClient(uri, uri)


def prepare() -> None:
    """Do early, in a thread, what the first use would wait for: an empty database gets its tables.

    That takes 1 to 4 seconds. Safe in several threads and processes at once.

    Raises:
        ConfigError: as `check_reachable`.
    """
    check_reachable()


def check_reachable() -> None:
    """Make sure that the tracking server or database answers, within about 10 seconds.

    Raises:
        ConfigError: it does not, or not to us. No credentials are in the message.
    """
    uri = tracking_uri()
    scheme = urlsplit(uri).scheme.partition("+")[0]
    if scheme in ("http", "https"):
        _check_server(uri)
    elif scheme in ("", "file"):
        raise ConfigError(
            "MLFLOW_TRACKING_URI must be a server or a database, MLflow has given up the file "
            f"store; given: {public(uri)}; use sqlite:///mlflow.db, or unset it."
        )
    elif scheme == "sqlite":
        _check_file(uri)
        _refuse_trouble(uri)
    else:
        _check_database(uri)


def _check_server(uri: str) -> None:
    try:
        answer = http_request(  # type: ignore[no-untyped-call]
            get_default_host_creds(uri),  # type: ignore[no-untyped-call]
            "/api/2.0/mlflow/experiments/search",
            "GET",
            params={"max_results": 1},
            max_retries=1,
            backoff_factor=0,
            timeout=CONNECT_SECONDS,
            raise_on_status=False,
        )
    except TROUBLE as error:
        raise _unusable(uri, _cause(error, uri)) from None
    if answer.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise ConfigError(
            f"The MLflow server must let us in; {public(uri)} answered {answer.status_code}; set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN."
        )
    if answer.status_code != HTTPStatus.OK or "json" not in answer.headers.get("content-type", ""):
        raise _unusable(uri, f"it answered {answer.status_code}, not as an MLflow server does")


def _cause(error: BaseException, uri: str) -> str:
    """What lies at the bottom of a chain of connection errors."""
    text = f"{error} {error.__context__}".lower()
    for sign, cause in (
        ("connection refused", "nothing listens there"),
        ("name or service not known", "no such host"),
        ("failed to resolve", "no such host"),
        ("timed out", f"no answer in {2 * CONNECT_SECONDS} seconds"),
        ("certificate", "its certificate is not trusted"),
    ):
        if sign in text:
            return cause
    return first_line(error, uri)


def _check_file(uri: str) -> None:
    """SQLAlchemy tries for a minute and a half to open what cannot be opened."""
    file = database_file(uri)
    if file is None:
        raise _unusable(uri, "it names no file")
    if not file.parent.is_dir():
        raise _unusable(uri, f"there is no folder {file.parent}")
    if file.exists() and not os.access(file, os.W_OK):
        raise _unusable(uri, "it is not writable")
    try:
        with closing(sqlite3.connect(file, timeout=DATABASE_SECONDS)) as database:
            database.execute("PRAGMA schema_version")
    except sqlite3.Error as error:
        raise _unusable(uri, str(error)) from None


def _check_database(uri: str) -> None:
    # MLflow's ten tries cannot be shortened: they go on in a thread that ends with the process.
    caught: list[ConfigError] = []

    def connect() -> None:
        try:
            _refuse_trouble(uri)
        except ConfigError as error:
            caught.append(error)

    thread = threading.Thread(target=connect, daemon=True, name="mlflow-database")
    thread.start()
    thread.join(DATABASE_SECONDS)
    if thread.is_alive():
        raise _unusable(uri, f"no answer in {DATABASE_SECONDS} seconds")
    if caught:
        raise caught[0]


def _refuse_trouble(uri: str) -> None:
    try:
        _connect(uri)
    except (*TROUBLE, ImportError) as error:
        raise _unusable(uri, first_line(error, uri)) from None


def _unusable(uri: str, cause: str) -> ConfigError:
    return ConfigError(
        f"The MLflow tracking URI must be one that answers; {public(uri)} does not: "
        f"{cause.rstrip('. ')}; {ADVICE}."
    )


@lru_cache(maxsize=16)
def _connect(uri: str) -> None:
    """Open a database, which creates its tables when it is empty; once in a process."""
    if urlsplit(uri).scheme in ("http", "https"):
        return
    with _alone(uri):
        MlflowClient(uri, uri).search_experiments(max_results=1)


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Two that create the tables of one database at the same time both fail: one waits."""
    name = f"fedrounds-{os.getuid()}-{hashlib.sha256(uri.encode()).hexdigest()[:16]}.lock"
    with Path(tempfile.gettempdir(), name).open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
