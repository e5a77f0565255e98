"""The page of a flow run in the Prefect UI: names, graph, log, artifacts."""

from itertools import pairwise


def test_tutorial_shows_bob_then_alice(browser, up) -> None:
    flow_run = up.start("tutorial", rounds=2)
    up.completed(flow_run)
    expected = [
        name
        for round in (1, 2)
        for worker in ("bob", "alice")
        for name in (
            *(f"r00{round}-{v}-{worker}" for v in ("send_model", "local_train", "fetch_update")),
            f"r00{round}-aggregate",
        )
    ]
    graph = browser.until(
        lambda: recorded(up, flow_run, count=len(expected)), "all task runs in the graph"
    )
    nodes = sorted((node for _, node in graph["nodes"]), key=lambda node: node["start_time"])
    assert [node["label"] for node in nodes] == expected
    # In a round, an arrow from each task to the next: send, train, fetch, aggregate, then alice.
    for earlier, later in pairwise(nodes):
        if earlier["label"][:4] == later["label"][:4]:
            assert earlier["id"] in {parent["id"] for parent in later["parents"]}, later["label"]

    # The page asks for the log of an ended run once, and the last lines come in a batch.
    lines = {"logs": {"flow_run_id": {"any_": [flow_run]}}}
    browser.until(lambda: "round 2 of 2" in str(up.ask("/logs/filter", lines)), "the whole log")
    browser.open(f"{up.prefect}/runs/flow-run/{flow_run}")
    browser.see("16 Task runs")
    browser.find("//*[text()[contains(., 'round 1 of 2, train loss')]]")
    browser.click("//button[@aria-label='Run Graph Options']")
    browser.click("//label[normalize-space(.)='Dependency grid']")
    browser.click("//button[@aria-label='Run Graph Options']")
    browser.click("//button[@title='Recenter graph (c)']")
    browser.picture("flow-run-graph")
    browser.press("Task Runs")
    browser.see("r002-fetch_update-alice")
    browser.picture("flow-run-tasks")


def recorded(up, flow_run: str, *, count: int):
    graph = up.ask(f"/flow_runs/{flow_run}/graph-v2")
    ended = [node for _, node in graph["nodes"] if node["end_time"]]
    return graph if len(ended) == count else None


def test_workers_and_artifacts_of_digits(browser, up, digits) -> None:
    up.completed(digits["fedavg"])
    browser.open(f"{up.prefect}/runs/flow-run/{digits['fedavg']}")
    browser.press("Artifacts")
    for key in ("progress", "rounds", "workers", "labels", "mlflow-run"):
        cards = browser.until(lambda key=key: browser.all(heading(key)), key)
        assert len(cards) == 1
    browser.picture("flow-run-artifacts")
    browser.press("Task Runs")
    browser.write("//input[@placeholder='Search by run name']", "r001-local_train")
    browser.see("r001-local_train-worker-01")
    browser.picture("flow-run-workers")

    for key, cell in (("rounds", "test_accuracy"), ("workers", "worker-10"), ("labels", "class 9")):
        browser.press("Artifacts")
        browser.click(heading(key))
        browser.see(cell)
        browser.picture(f"artifact-{key}")
        browser.open(f"{up.prefect}/runs/flow-run/{digits['fedavg']}")
    run = up.run(digits["fedavg"])
    browser.press("Artifacts")
    browser.click(heading("mlflow-run"))
    link = browser.find("//a[normalize-space(.)='MLflow run']").get_attribute("href")
    assert link == (
        f"{up.mlflow}/#/experiments/{run['info']['experiment_id']}/runs/{run['info']['run_id']}"
    )


def heading(key: str) -> str:
    return f"//*[contains(@class, 'artifact-card__title')][normalize-space(.)='{key}']"
