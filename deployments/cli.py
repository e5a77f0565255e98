"""The command line. Heavy modules are imported inside commands: `--help` answers at once."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fedcore.errors import ConfigError, FedroundsError, nearest

if TYPE_CHECKING:
    from fedcore.settings import TrainingConfig
    from fedcore.settings.comparison import Comparison

__all__ = ["app", "main"]

app = typer.Typer(
    name="fedrounds",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

CONFIGS = Path(__file__).parent / "configs"
COMPARISONS = Path(__file__).parent / "comparisons"

NameOrFile = Annotated[
    str | None,
    typer.Argument(
        metavar="[NAME|FILE]",
        help="A named training (digits, tutorial, tutorial-centralised) or a YAML file.",
        show_default="digits",
    ),
]
Changes = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="a.b=c",
        help="Change a setting, as often as needed; x.kind=... starts x from that kind's defaults.",
    ),
]
Resume = Annotated[
    str | None,
    typer.Option(
        metavar="RUN",
        help="Go on with a run that stopped: its MLflow or Prefect run id, or `latest`.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="End with one line of JSON.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show stack traces.")]
Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="MLflow or Prefect run id, or `latest`: the newest with a finished round.",
    ),
]


@app.callback(invoke_without_command=True)
def fedrounds(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Federated learning whose rounds are Prefect tasks and whose history is MLflow."""
    if version:
        from importlib.metadata import version as of

        print(f"fedrounds {of('fedrounds')}")
        raise typer.Exit


@app.command()
def train(
    name: NameOrFile = None,
    changes: Changes = [],  # noqa: B006 - typer reads the default once
    resume: Resume = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train over workers that keep their data."""
    _train("federated", name, changes, resume=resume, json=json, debug=debug)


@app.command()
def centralised(
    name: NameOrFile = None,
    changes: Changes = [],  # noqa: B006 - typer reads the default once
    resume: Resume = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train the baseline on all data in one place."""
    _train("centralised", name, changes, resume=resume, json=json, debug=debug)


def _train(
    kind: Literal["federated", "centralised"],
    name: str | None,
    changes: list[str],
    *,
    resume: str | None,
    json: bool,
    debug: bool,
) -> None:
    with _clear_errors(debug=debug):
        # Settings are checked before anything heavy is imported or started.
        config = None if resume and name is None and not changes else _config(name, changes)
        _needs("prefect", extra="flows")
        from deployments.training import run_training

        run_training(kind, config, resume=resume, json=json)


@app.command()
def compare(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME|FILE]",
            help="A named comparison (digits-comparison) or a YAML file.",
            show_default="digits-comparison",
        ),
    ] = None,
    changes: Changes = [],  # noqa: B006 - typer reads the default once
    seeds: Annotated[int | None, typer.Option(help="How many seeds each case gets.")] = None,
    resume: Resume = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train several cases over several seeds, and set them side by side."""
    with _clear_errors(debug=debug, again="fedrounds compare --resume latest"):
        changes = changes if seeds is None else [*changes, f"seeds={seeds}"]
        given = None if resume and name is None and not changes else _comparison(name, changes)
        _needs("prefect", extra="flows")
        from deployments.comparison import run_comparison

        run_comparison(given, resume=resume, json=json)


@app.command()
def evaluate(
    run: Run,
    round: Annotated[
        int | None, typer.Option(help="Which round's model; the last one if not given.")
    ] = None,
    cross_site: Annotated[
        bool,
        typer.Option("--cross-site", help="Every worker's local model on every worker, too."),
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure a run's model on every worker."""
    with _clear_errors(debug=debug):
        _needs("prefect", extra="flows")
        from deployments.evaluation import run_evaluation

        run_evaluation(run, round=round, cross_site=cross_site, json=json)


@app.command()
def model(
    run: Run,
    round: Annotated[
        int | None, typer.Option(help="Which round; the last one if not given.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Where to write the weights.")] = None,
    debug: Debug = False,
) -> None:
    """Write a round's weights to a file."""
    with _clear_errors(debug=debug):
        _needs("mlflow", extra="flows")
        from deployments.weights import write_weights

        write_weights(run, round=round, output=output)


@app.command()
def up(
    prefect_port: Annotated[int, typer.Option(help="Port of the Prefect server.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow server.")] = 5000,
    debug: Debug = False,
) -> None:
    """Start Prefect, MLflow and the deployments."""
    with _clear_errors(debug=debug):
        _needs("prefect", extra="flows")
        from deployments.up import up as start

        start(prefect_port=prefect_port, mlflow_port=mlflow_port)


def _config(name: str | None, changes: list[str]) -> "TrainingConfig":
    from fedcore.settings import configured

    return configured(_file(name or "digits"), changes)


def _comparison(name: str | None, changes: list[str]) -> "Comparison":
    from fedcore.settings.cells import cells_of
    from fedcore.settings.comparison import configured_comparison

    file = _file(name or "digits-comparison", folder=COMPARISONS, what="comparison")
    given = configured_comparison(file, changes)
    cells_of(given)
    return given


def _file(name: str, *, folder: Path = CONFIGS, what: str = "training") -> Path:
    """The file of a named training or comparison, or the file itself."""
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name in known:
        return folder / f"{name}.yaml"
    path = Path(name)
    if path.suffix not in (".yaml", ".yml") and not path.exists():
        raise ConfigError(
            f"A {what} must be a named one ({', '.join(known)}) or a YAML file; given: "
            f"{name}{nearest(name, known)}; choose one, or write the file's whole name."
        )
    return path


def _needs(module: str, *, extra: str) -> None:
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise ConfigError(
            f"This command needs {module}; given: an installation without it; "
            f"pip install 'fedrounds[{extra}]'."
        )


@contextmanager
def _clear_errors(*, debug: bool, again: str = "fedrounds train --resume latest") -> Iterator[None]:
    """One clear message and the right exit status: 2 for bad input, 1 for a failure."""
    try:
        yield
    except (typer.Exit, SystemExit):
        raise
    except KeyboardInterrupt:
        if debug:
            raise
        _say(f"stopped; go on with: {again}")
        raise typer.Exit(130) from None
    except FedroundsError as error:
        if debug:
            raise
        _say(str(error))
        raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from None
    except Exception as error:
        if debug:
            raise
        _say(f"unexpected {type(error).__name__}: {error}; add --debug to see where.")
        raise typer.Exit(1) from None


def _say(message: str) -> None:
    print(f"fedrounds: {message}", file=sys.stderr)


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
