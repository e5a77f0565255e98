"""The MLflow UI: the table of trainings, two of them compared, the workers' curves overlaid."""

from urllib.parse import quote

from selenium.webdriver.common.by import By

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


def column(browser, name: str, *, shown: bool) -> None:
    browser.write("//input[@placeholder='Search columns']", name)
    node = f"//*[contains(@class, 'tree-treenode')][normalize-space(.)='{name}']"

    def as_wanted() -> bool:
        found = browser.find(node)
        if ("treenode-checkbox-checked" in found.get_attribute("class")) == shown:
            return True
        found.find_element(By.XPATH, ".//*[contains(@class, 'node-content-wrapper')]").click()
        return False

    browser.until(as_wanted, f"{name} {'ticked' if shown else 'unticked'}")


def accuracies(browser) -> list[float]:
    """The column best_test_accuracy, from top to bottom."""
    rows = browser.all("//*[@role='row'][.//*[contains(@col-id, 'best_test_accuracy')]]")
    rows = [row for row in rows if row.get_attribute("row-id")]
    rows.sort(key=lambda row: int(row.get_attribute("row-index")))
    cells = [row.find_element(By.XPATH, ".//*[contains(@col-id, 'best_test')]") for row in rows]
    return [float(cell.text) for cell in cells if cell.text not in ("", "-")]


def falling(browser) -> bool:
    found = accuracies(browser)
    return found == sorted(found, reverse=True)


def test_trainings_are_sorted_and_compared(browser, up, digits) -> None:
    for flow_run in digits.values():
        up.completed(flow_run)
    open_runs(browser, up, search="tags.strategy LIKE '%'")  # without the workers' runs
    browser.click("//button[contains(normalize-space(.), 'Columns')]")
    for name in (*UNTICKED, *COLUMNS):
        column(browser, name, shown=name in COLUMNS)
    browser.click("//button[contains(normalize-space(.), 'Columns')]")
    for name in COLUMNS:
        browser.find(HEADER.format(name))
    browser.click(HEADER.format("best_test_accuracy"))
    browser.until(lambda: len(accuracies(browser)) >= len(digits) and falling(browser), "sorted")
    browser.picture("mlflow-experiment")

    names = [f"digits {strategy}" for strategy in digits]
    for name in names:
        row = browser.find(f"//*[@role='row'][.//a[normalize-space(.)='{name}']]")
        number = row.get_attribute("row-index")
        tick = "*[contains(@class, 'ag-checkbox-input-wrapper')]"  # the input itself is invisible
        browser.click(f"//*[@role='row'][@row-index='{number}']//{tick}")
    browser.press("Compare")
    browser.see("Comparing 2 Runs from 1 Experiment")
    browser.picture("mlflow-compare")


def test_workers_curves_are_drawn_over_each_other(browser, up, digits) -> None:
    up.completed(digits["fedavg"])
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
