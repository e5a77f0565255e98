"""A real `fedrounds up` and a real browser, both shared by all tests here."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest
from selenium.common.exceptions import (
    ElementClickInterceptedException,
    ElementNotInteractableException,
    StaleElementReferenceException,
    TimeoutException,
)
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from fedcore.checkpoint import RunFolder

PATIENCE = 120.0
"""Seconds, for a machine that does many other things; nothing waits for it in vain."""
SCREENSHOTS = Path(__file__).parents[2] / "screenshots"
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,1000",
    "--no-proxy-server",
)
AT_REST = (
    "document.getAnimations().every(each => each.playState !== 'running'"
    " || each.effect.getComputedTiming().endTime === Infinity)"
)
# A page may replace or cover what was found before it is used: it is looked for again.
FLEETING = (
    StaleElementReferenceException,
    ElementClickInterceptedException,
    ElementNotInteractableException,
)


@dataclass(frozen=True)
class Browser:
    """What a person does in a browser; everything waits until it can be done."""

    driver: Chrome

    def open(self, url: str) -> None:
        # From another page: a change after the # alone would not load anything.
        self.driver.get("about:blank")
        self.driver.get(url)

    def until(self, holds: Callable[[], Any], awaited: str) -> Any:
        SCREENSHOTS.mkdir(exist_ok=True)
        wait = WebDriverWait(self.driver, PATIENCE, 0.2, FLEETING)
        try:
            return wait.until(lambda _: holds(), f"{awaited}, at {self.driver.current_url}")
        except TimeoutException:
            self.driver.save_screenshot(str(SCREENSHOTS / "failed.png"))
            raise

    def all(self, xpath: str) -> list[WebElement]:
        return [e for e in self.driver.find_elements(By.XPATH, xpath) if e.is_displayed()]

    def find(self, xpath: str) -> WebElement:
        return self.until(lambda: next(iter(self.all(xpath)), None), xpath)

    def see(self, text: str) -> WebElement:
        return self.find(f"//*[text()[normalize-space(.)={_quoted(text)}]]")

    def click(self, xpath: str) -> None:
        def done() -> bool:
            found = self.all(xpath)
            if found:
                center = "arguments[0].scrollIntoView({block: 'center'})"
                self.driver.execute_script(center, found[0])
                found[0].click()
            return bool(found)

        self.until(done, xpath)

    def press(self, button: str) -> None:
        """Click a button by what is written on it."""
        self.click(
            f"//*[self::button or self::a or self::li][normalize-space(.)={_quoted(button)}]"
        )

    def write(self, xpath: str, text: str) -> None:
        field = self.find(xpath)
        self.driver.execute_script("arguments[0].select()", field)
        field.send_keys(text)
        self.until(lambda: field.get_attribute("value") == text, f"{text} in {xpath}")

    def picture(self, name: str, *, whole: bool = False) -> None:
        """Save what is seen; `whole`: with all that one would have to scroll to."""
        self.until(lambda: self.driver.execute_script(f"return {AT_REST}"), "nothing fades in")
        if whole:
            tallest = "[...document.querySelectorAll('*')].map(e => e.scrollHeight)"
            height = self.driver.execute_script(f"return Math.max(...{tallest})")
            size = {"width": 1400, "height": height, "deviceScaleFactor": 1, "mobile": False}
            self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        try:
            self.driver.save_screenshot(str(SCREENSHOTS / f"{name}.png"))
        finally:
            self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def _quoted(text: str) -> str:
    return f'"{text}"' if "'" in text else f"'{text}'"


@dataclass(frozen=True)
class Up:
    """A running `fedrounds up`: its two servers and the folder that it was started in."""

    prefect: str
    mlflow: str
    folder: Path

    def ask(self, path: str, body: object | None = None) -> Any:
        """The Prefect API."""
        return _ask(f"{self.prefect}/api{path}", body)

    def deployment(self, name: str) -> Any:
        return self.ask(f"/deployments/name/{quote(DEPLOYMENT_FLOWS[name])}/{name}")

    def start(self, name: str, /, **changes: object) -> str:
        """Start a deployment with some settings changed; returns the flow run's id."""
        deployment = self.deployment(name)
        config = {**deployment["parameters"]["config"], **changes}
        path = f"/deployments/{deployment['id']}/create_flow_run"
        return str(self.ask(path, {"parameters": {"config": config}})["id"])

    def wait(self, flow_run: str) -> str:
        """The state in which a flow run has ended."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            state = self.ask(f"/flow_runs/{flow_run}")["state_type"]
            if state in ENDED:
                return str(state)
            time.sleep(0.3)
        pytest.fail(f"the flow run {flow_run} must end: not within {PATIENCE:.0f} s")

    def completed(self, flow_run: str) -> None:
        """Wait for a flow run to complete; another end fails the test, with what the run said."""
        if self.wait(flow_run) != "COMPLETED":
            logs = {"logs": {"flow_run_id": {"any_": [flow_run]}}, "sort": "TIMESTAMP_ASC"}
            state = self.ask(f"/flow_runs/{flow_run}")["state"]
            said = [each["message"] for each in self.ask("/logs/filter", logs)]
            pytest.fail("\n".join([f"{state['name']}: {state['message']}", *said]))

    def experiment(self, name: str) -> str:
        answer = self._mlflow(f"experiments/get-by-name?experiment_name={quote(name, safe='')}")
        return str(answer["experiment"]["experiment_id"])

    def runs(self, flow_run: str) -> list[Any]:
        """The MLflow runs of a Prefect flow run, without the workers' runs."""
        experiments = self._mlflow("experiments/search?max_results=100").get("experiments", [])
        body = {
            "experiment_ids": [each["experiment_id"] for each in experiments],
            "filter": f"tags.`{FLOW_RUN_TAG}` = '{flow_run}'",
        }
        return list(self._mlflow("runs/search", body).get("runs", []))

    def run(self, flow_run: str) -> Any:
        (run,) = self.runs(flow_run)
        return run

    def steps(self, run: str, metric: str) -> list[int]:
        path = f"metrics/get-history?run_id={run}&metric_key={metric}&max_results=1000"
        return [int(each["step"]) for each in self._mlflow(path)["metrics"]]

    def checkpoints(self, run: str) -> RunFolder:
        return RunFolder(self.folder / ".fedrounds" / run)

    def _mlflow(self, path: str, body: object | None = None) -> Any:
        return _ask(f"{self.mlflow}/api/2.0/mlflow/{path}", body)


FLOW_RUN_TAG = "prefect.flow_run_id"
DEPLOYMENT_FLOWS = {
    "tutorial": "federated-training",
    "digits": "federated-training",
    "tutorial-centralised": "centralised-training",
}


def _ask(url: str, body: object | None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data, {"Content-Type": "application/json"})
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with urlopen(request, timeout=PATIENCE) as answer:
                return json.load(answer)
        except HTTPError as error:
            # Prefect says so while its SQLite database is locked; its own clients ask again, too.
            with error:
                if error.code != HTTPStatus.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
                    raise
        time.sleep(0.5)


@pytest.fixture
def browser(shared_browser: Browser) -> Iterator[Browser]:
    yield shared_browser
    # A page that is left open goes on drawing, on the cores that the next test needs.
    shared_browser.driver.get("about:blank")


@pytest.fixture(scope="session")
def shared_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.fail(
            "The browser tests need chromium and chromedriver, which are not here; install "
            "Debian's packages chromium and chromium-driver (apt-get install chromium "
            "chromium-driver)."
        )
    options = ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    chrome = Chrome(options=options, service=Service(driver))
    try:
        yield Browser(chrome)
    finally:
        chrome.quit()


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("up")
    prefect, mlflow = _free_ports()
    ours = ("PREFECT", "MLFLOW", "FEDROUNDS")
    command = [sys.executable, "-P", "-m", "deployments.cli", "up"]
    process = subprocess.Popen(
        [*command, "--prefect-port", str(prefect), "--mlflow-port", str(mlflow)],
        cwd=folder,
        env={
            **{name: text for name, text in os.environ.items() if not name.startswith(ours)},
            "PREFECT_HOME": str(tmp_path_factory.mktemp("prefect-home")),
            "FEDROUNDS_CRASH_AFTER": "40",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "NO_PROXY": "*",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        said = ""
        while "Ctrl-C ends" not in said:
            line = process.stdout.readline()
            assert line, f"fedrounds up has ended: {said}"
            said += line
        yield Up(f"http://127.0.0.1:{prefect}", f"http://127.0.0.1:{mlflow}", folder)
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)


def _free_ports() -> tuple[int, int]:
    with closing(socket.socket()) as one, closing(socket.socket()) as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1]), int(other.getsockname()[1])


@pytest.fixture(scope="session")
def digits(up: Up) -> dict[str, str]:
    """Two trainings to compare, started and perhaps not ended: flow run id by strategy."""
    strategies = {"fedavg": {"kind": "fedavg"}, "fedprox": {"kind": "fedprox", "mu": 0.1}}
    return {
        name: up.start("digits", name=f"digits {name}", rounds=6, strategy=strategy)
        for name, strategy in strategies.items()
    }
