"""`fedrounds model`: the weights of any round, as a safetensors file."""

from pathlib import Path

from fedcore.checkpoint import RunFolder

__all__ = ["write_weights"]


def write_weights(run: str, *, round: int | None, output: Path | None) -> None:
    """Write the model after a round and say what it is.

    Raises:
        UnknownRun: no such run or round.
    """
    from safetensors.torch import load

    from fedcore.trees import digest
    from tasks import tracking

    tracking.check_reachable()
    found = tracking.find_run(run, latest="trained")
    chosen = max(RunFolder(found.folder).rounds()) if round is None else round
    content = tracking.load_model_file(found, chosen)
    path = output or Path(f"{found.name}-round-{chosen:05d}.safetensors")
    path.write_bytes(content)
    tensors = load(content)
    print(f"{path}: {found.name}, round {chosen}, sha256 {digest(tensors)}")
    for name, tensor in tensors.items():
        print(f"  {name} {list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}")
