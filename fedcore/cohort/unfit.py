"""The signal that a model cannot be trained for many workers at once; the loop always can."""

__all__ = ["Unfit"]


class Unfit(Exception):
    """Never leaves the package: the loop takes over, or Incompatible repeats the reason."""
