"""Settings: files, --set, messages, and the schema that Prefect's form is made of."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fedcore.errors import ConfigError
from fedcore.settings import TrainingConfig, configured, parse, replace

CONFIGS = sorted((Path(__file__).parents[2] / "deployments/configs").glob("*.yaml"))
DIGITS = next(path for path in CONFIGS if path.stem == "digits")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_named_trainings_are_what_they_are_called(path):
    assert configured(path, []).name == path.stem


def test_the_forms_defaults_are_the_main_job():
    assert configured(DIGITS, []) == TrainingConfig()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_settings_survive_json(path):
    config = configured(path, [])
    assert TrainingConfig.model_validate_json(config.model_dump_json()) == config
    assert parse(json.loads(config.model_dump_json())) == config


def test_a_change_of_kind_starts_from_that_kinds_defaults():
    config = configured(DIGITS, ["model.hidden=[8]", "model.kind=mlp", "strategy.kind=fedprox"])
    assert config.model.hidden == [64]
    assert config.strategy.mu == 0.1
    config = configured(DIGITS, ["strategy.kind=fedprox", "strategy.mu=3"])
    assert config.strategy.mu == 3


def test_changes_leave_the_rest_alone():
    config = configured(DIGITS, ["local.learning_rate=1e-3", "workers.ids=[bob, alice]"])
    assert config.local.learning_rate == 0.001
    assert config.local.epochs == 5
    assert config.workers.names() == ["bob", "alice"]


def test_values_are_frozen_and_nothing_unknown_is_taken():
    config = TrainingConfig()
    with pytest.raises(ValidationError, match="frozen"):
        config.rounds = 3
    with pytest.raises(ConfigError, match="there is no such setting"):
        parse({"round": 3})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ["strategy.kind=fedprox", "strategy.mux=2"],
            r"nearest: 'mu'\); known here: aggregator, exchange, kind, mu\.",
        ),
        (["strategy.mu=2"], r"there is no such setting; known here: aggregator, exchange, kind\."),
        (["workers.partition.kind=dirichlt"], r"nearest: 'dirichlet'"),
        (["workers.ids=[bob, bob]"], r"given twice: bob"),
        (["workers.ids=[../etc]"], r"workers\.ids\.0: .*given: '\.\./etc'"),
        (["local.learning_rate=.nan"], r"local\.learning_rate: .*finite"),
        (
            ["strategy=fedavg"],
            r"strategy: must say its kind.*given: 'fedavg'; write strategy\.kind",
        ),
        (["model.kind=[1]"], r"model: kind must be one of"),
        (["rounds.x=1"], r"rounds: "),
        (["=3"], r"name=value"),
        (["a..b=3"], r"name=value"),
        (["rounds=[1"], r"must be YAML"),
    ],
)
def test_what_is_wrong_is_said_with_what_is_right(changes, message):
    with pytest.raises(ConfigError, match=message):
        configured(DIGITS, changes)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(name=st.sampled_from(list(TrainingConfig.model_fields)), value=JSON)
def test_anything_else_is_a_config_error_and_never_a_crash(name, value):
    try:
        parse({name: value})
    except ConfigError as error:
        assert str(error)  # noqa: PT017 - most values are wrong, some are right


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.text(max_size=30))
def test_any_change_is_taken_or_refused_in_words(change):
    try:
        replace({}, [change])
    except ConfigError as error:
        assert str(error)  # noqa: PT017


def test_every_field_of_the_form_says_what_it_is_for():
    schema = TrainingConfig.model_json_schema()
    forms = [schema, *schema["$defs"].values()]
    fields = [(name, field) for form in forms for name, field in form.get("properties", {}).items()]
    mute = [name for name, field in fields if "description" not in field]
    assert not mute
    for form in forms:
        positions = sorted(f["position"] for f in form.get("properties", {}).values())
        assert positions == list(range(len(positions)))


def test_the_form_asks_in_the_order_of_the_design():
    properties = TrainingConfig.model_json_schema()["properties"]
    assert sorted(properties, key=lambda name: properties[name]["position"]) == [
        "name", "experiment", "seed", "rounds", "data", "model", "local", "workers", "strategy",
        "sampling", "terms", "disclosure", "evaluation", "backend", "clock", "stop",
    ]  # fmt: skip


def test_choices_are_plain_unions():
    """Prefect shows a discriminated union as raw JSON."""
    assert "discriminator" not in json.dumps(TrainingConfig.model_json_schema())


def test_the_experiment_is_the_data_sources_unless_named():
    assert TrainingConfig().experiment_name == "fedrounds/digits"
    assert parse({"experiment": "mine"}).experiment_name == "mine"
