"""Entrypoints: found by name, also in the working folder, and never in place of our own code."""

import sys
from pathlib import Path

import pytest

from fedcore.entrypoints import load_callable, load_entrypoint
from fedcore.errors import ConfigError

not_callable = 3


class Scale:
    def __init__(self, by: float) -> None:
        self.by = by

    def __call__(self, value: float) -> float:
        return self.by * value


class Mute:
    pass


def add(left: int, *, right: int) -> int:
    return left + right


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_module_in_the_working_folder_is_found_and_the_search_path_left_alone(
    folder: Path,
) -> None:
    (folder / "made_for_this_test.py").write_text("def five():\n    return 5\n")
    before = list(sys.path)
    assert load_entrypoint("made_for_this_test:five", what="a model")() == 5
    assert sys.path == before


def test_the_working_folder_does_not_shadow_installed_packages(folder: Path) -> None:
    (folder / "safetensors").mkdir()
    (folder / "safetensors" / "__init__.py").write_text("raise SystemExit('shadowed')")
    held = {name: sys.modules.pop(name) for name in list(sys.modules) if "safetensors" in name}
    try:
        load_entrypoint("safetensors:safe_open", what="a model")
    finally:
        sys.modules.update(held)


def test_what_a_notebook_defines_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "Net", Scale, raising=False)
    assert load_entrypoint("__main__:Net", what="a model") is Scale


@pytest.mark.parametrize(
    ("entrypoint", "message"),
    [
        ("no_colon", r"must be module:name; given: 'no_colon' for a model"),
        ("not_there_at_all:x", r"there is no module 'not_there_at_all' among .* install it"),
        ("fedcore.not_there:x", r"there is no module 'fedcore.not_there'"),
        ("math:hypott", r"math has no 'hypott' \(nearest: 'hypot'\)"),
        (f"{__name__}:not_callable", r"must be a class or function; given: .* a int"),
    ],
)
def test_what_cannot_be_found_is_said(entrypoint: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_entrypoint(entrypoint, what="a model")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import not_installed_anywhere", "ModuleNotFoundError: .*not_installed_anywhere"),
        ("1 / 0", "ZeroDivisionError: division by zero; mend the module"),
        ("def f(:", "SyntaxError"),
    ],
)
def test_a_module_that_fails_says_why(folder: Path, code: str, message: str) -> None:
    (folder / "fails_to_import.py").write_text(code)
    with pytest.raises(ConfigError, match=f"must import without error; given: .*{message}"):
        load_entrypoint("fails_to_import:f", what="a model")


def test_functions_and_classes_both_become_callables() -> None:
    bound = load_callable(f"{__name__}:add", arguments={"right": 2}, what="a loss")
    assert bound(1) == 3
    assert load_callable(f"{__name__}:Scale", arguments={"by": 2}, what="a loss")(4) == 8


def test_a_class_that_makes_no_callable_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"must make callables; given: .*Mute"):
        load_callable(f"{__name__}:Mute", arguments={}, what="a loss")
    with pytest.raises(ConfigError, match=r"must accept its arguments .*TypeError"):
        load_callable(f"{__name__}:Scale", arguments={"times": 2}, what="a loss")
