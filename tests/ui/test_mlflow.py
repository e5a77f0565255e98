"""The MLflow UI: the table of trainings, two of them compared, the workers' curves overlaid."""

from urllib.parse import quote

COLUMNS = ("best_test_accuracy", "strategy", "workers")
UNTICKED = ("Dataset", "Source", "Models")
HEADER = "//*[@role='columnheader' and @col-id][.//*[normalize-space(.)='{}']]"
WORKERS = 10


def open_runs(browser, up, *, mode: str = "TABLE", search: str = "") -> None:
    experiment = up.experiment("fedrounds/digits")
    query = f"searchFilter={quote(search)}&compareRunsMode={mode}&startTime=ALL"
    browser.open(f"{up.mlflow}/#/experiments/{experiment}/runs?{query}")
    browser.see("Training runs")
    browser.find("//*[@role='gridcell']")
    # MLflow's assistant covers a third of the page until it is closed.
    for close in browser.all("//*[@aria-label='Close']"):
        close.click()


def column(browser, name: str) -> None:
    browser.write("//input[@placeholder='Search columns']", name)
    node = "//*[contains(@class, 'tree-treenode')]"
    exact = f"{node}[normalize-space(.)='{name}']//*[contains(@class, 'tree-checkbox-inner')]"
    browser.click(exact)


def test_trainings_are_sorted_and_compared(browser, up, digits) -> None:
    for flow_run in digits.values():
        assert up.wait(flow_run) == "COMPLETED"
    open_runs(browser, up)
    browser.click("//button[contains(normalize-space(.), 'Columns')]")
    for name in (*UNTICKED, *COLUMNS):
        column(browser, name)
    browser.click("//button[contains(normalize-space(.), 'Columns')]")
    for name in COLUMNS:
        browser.find(HEADER.format(name))
    browser.click(HEADER.format("best_test_accuracy"))
    browser.until(lambda: "best_test_accuracy" in browser.driver.current_url, "sorted")
    cells = "//*[@role='gridcell'][contains(@col-id, 'best_test_accuracy')]"
    browser.until(lambda: len(browser.all(cells)) >= len(digits), "accuracies")
    found = [float(cell.text) for cell in browser.all(cells) if cell.text not in ("", "-")]
    assert found in (sorted(found), sorted(found, reverse=True))
    browser.picture("mlflow-experiment")

    names = [f"digits {strategy}" for strategy in digits]
    for name in names:
        row = f"//*[@role='row'][.//a[normalize-space(.)='{name}']]/@row-id"
        browser.click(f"//*[@role='row'][@row-id={row}]//input[@type='checkbox']")
    browser.press("Compare")
    browser.see("Comparing 2 Runs from 1 Experiment")
    browser.picture("mlflow-compare")


def test_workers_curves_are_drawn_over_each_other(browser, up, digits) -> None:
    assert up.wait(digits["fedavg"]) == "COMPLETED"
    run = up.run(digits["fedavg"])["info"]["run_id"]
    open_runs(browser, up, mode="CHART", search=f"tags.`mlflow.parentRunId` = '{run}'")
    browser.click("//*[@role='gridcell'][.//a[normalize-space(.)='digits fedavg']]//button")
    for number in range(1, WORKERS + 1):
        browser.see(f"worker-{number:02d}")
    browser.write("//input[@placeholder='Search metric charts']", "train_loss")
    chart = (
        "//*[contains(@data-testid, 'chart-card') or contains(@class, 'card')]"
        "[.//*[normalize-space(text())='train_loss']]"
    )
    browser.find(chart)
    # MLflow draws the first ten rows: the training itself and nine workers.
    lines = "//*[contains(@class, 'scatterlayer')]/*[contains(@class, 'trace')]"
    browser.until(lambda: len(browser.all(lines)) >= WORKERS, "a line for each")
    browser.picture("mlflow-workers")
