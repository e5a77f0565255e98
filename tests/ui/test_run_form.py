"""The run form in the Prefect UI: what it shows, and that what is typed is what is trained."""

from collections.abc import Iterator
from typing import Any
from urllib.error import HTTPError

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

from fedcore.settings import parse

LABEL = "span[contains(@class, 'schema-form-property__label')]"
DESCRIPTION = "div[contains(@class, 'schema-form-property__description')]"


def field(title: str, *, within: str = "") -> str:
    """The field of this title: its label, its description, its tabs and its inputs."""
    header = "div[contains(@class, 'p-label__header')]"
    return (
        f"{within}//div[contains(@class, 'schema-form-property')][./{header}//{LABEL}"
        f"[starts-with(normalize-space(.), '{title} (Optional)')]]"
    )


def control(title: str, *, within: str = "") -> str:
    return f"{field(title, within=within)}//*[self::input or self::textarea]"


def tab(name: str, *, within: str) -> str:
    return f"{field(within)}//button[normalize-space(.)='{name}']"


def resolved(described: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    name = described.get("$ref", "").rpartition("/")[2]
    return {**schema["definitions"][name], **described} if name else described


def shown(described: dict[str, Any], value: Any, schema: dict[str, Any]) -> Iterator[Any]:
    """Title, description and open tab of every field, in our order, as the form must have them."""
    properties = resolved(described, schema).get("properties", {})
    for name, plain in sorted(properties.items(), key=lambda item: item[1]["position"]):
        inner = resolved(plain, schema)
        given = value.get(name) if isinstance(value, dict) else None
        variants = [resolved(each, schema) for each in inner.get("anyOf", [])]
        chosen = next((each for each in variants if accepts(each, given)), inner)
        opened = {"string": "str", "null": "None", "integer": "int", "number": "float"}
        title = chosen.get("title", opened.get(chosen.get("type", "")))
        yield name.replace("_", " ").title(), inner["description"], title if variants else None
        yield from shown(chosen, given, schema)


def accepts(variant: dict[str, Any], given: Any) -> bool:
    kind = variant.get("properties", {}).get("kind")
    if kind is None or not isinstance(given, dict):
        return (variant.get("type") == "null") == (given is None)
    return given["kind"] in kind.get("enum", [kind.get("const")])


def test_form_shows_the_settings_and_what_is_typed_is_trained(browser, up) -> None:
    deployment = up.deployment("digits")
    schema = deployment["parameter_openapi_schema"]
    config = schema["properties"]["config"]
    before = parse(deployment["parameters"]["config"]).model_dump(mode="json")

    browser.open(f"{up.prefect}/deployments/deployment/{deployment['id']}")
    browser.press("Run")
    browser.press("Custom run")
    browser.find(field("Backend"))

    # Every field in our order, described, no union as JSON, every choice on its own tab.
    expected = list(shown(config, before, schema))
    fields = browser.all(f"//{LABEL}/ancestor::div[contains(@class, 'p-label ')][1]")
    titles = [each.text.partition("\n")[0].removesuffix(" (Optional)") for each in fields]
    assert titles == ["config", *(title for title, _, _ in expected), "resume"]
    for each, (title, text, _) in zip(fields[1:-1], expected, strict=True):
        found = each.find_elements(By.XPATH, f".//{DESCRIPTION}")
        assert found, title
        assert found[0].text.split() == text.replace("`", "").split()
    open_tabs = browser.all(f"{field('config')}//button[@aria-selected='true']")
    assert [each.text for each in open_tabs] == [name for _, _, name in expected if name]
    assert not browser.all("//*[contains(@class, 'cm-editor') or contains(@class, 'p-code-input')]")
    for title, text in (("Name", "digits"), ("Rounds", "12"), ("Epochs", "5"), ("Alpha", "0.5")):
        assert browser.find(control(title)).get_attribute("value") == text
    browser.picture("run-form", whole=True)

    browser.write(control("Name"), "from the form")
    browser.write(control("Rounds"), "3")
    browser.click(tab("fedprox", within="Strategy"))
    browser.write(control("Mu", within=field("Strategy")), "0.25")
    browser.click(tab("uniform, weighted, round_robin", within="Sampling"))
    browser.click(tab("all", within="Sampling"))
    browser.picture("run-form-edited")
    browser.press("Submit")
    browser.see("Runs")
    of_form = {"deployments": {"id": {"any_": [deployment["id"]]}}, "sort": "ID_DESC"}
    flow_run = browser.until(lambda: submitted(up.ask("/flow_runs/filter", of_form)), "a flow run")
    browser.open(f"{up.prefect}/runs/flow-run/{flow_run}")
    browser.see("Completed")

    after = {
        **before,
        "name": "from the form",
        "rounds": 3,
        "strategy": {
            "kind": "fedprox",
            "mu": 0.25,
            "aggregator": {"kind": "weighted_mean"},
            "exchange": [],
        },
    }
    given = up.ask(f"/flow_runs/{flow_run}")["parameters"]
    assert given == {"config": after, "resume": None}
    run = up.run(flow_run)
    assert run["info"]["run_name"] == "from the form"
    assert run["info"]["status"] == "FINISHED"
    logged = {each["key"]: each["value"] for each in run["data"]["params"]}
    assert (logged["rounds"], logged["strategy.kind"]) == ("3", "fedprox")
    assert float(logged["strategy.mu"]) == 0.25
    assert up.steps(run["info"]["run_id"], "test_loss") == [1, 2, 3]
    assert up.checkpoints(run["info"]["run_id"]).settings() == parse(after)


def submitted(flow_runs: list[Any]) -> str | None:
    named = [each for each in flow_runs if each["parameters"]["config"]["name"] == "from the form"]
    return next((each["id"] for each in named), None)


def test_every_kind_can_be_chosen_and_comes_back(browser, up) -> None:
    """Prefect guesses the tab from the names of fields: the first kinds were stuck once."""
    browser.open(f"{up.prefect}/deployments/deployment/{up.deployment('tutorial')['id']}/run")
    strategy = field("Strategy")
    selected = f"{strategy}//button[@aria-selected='true']"
    assert browser.find(selected).text == "sequential"
    browser.click(tab("fedprox", within="Strategy"))
    browser.find(control("Mu", within=strategy))
    browser.click(tab("fedavg, fedsgd, fedbn", within="Strategy"))
    kind = f"{field('Kind', within=strategy)}//select[option]"
    Select(browser.find(kind)).select_by_value("fedsgd")
    browser.until(lambda: browser.find(kind).get_attribute("value") == "fedsgd", "fedsgd")
    assert browser.find(selected).text == "fedavg, fedsgd, fedbn"


@pytest.mark.parametrize("change", [{"rounds": 0}, {"strategy": {"kind": "fedprox", "mu": -1}}])
def test_bounds_hold_before_anything_starts(change: dict[str, object], up) -> None:
    with pytest.raises(HTTPError) as refused:
        up.start("digits", **change)
    assert 400 <= refused.value.code < 500
