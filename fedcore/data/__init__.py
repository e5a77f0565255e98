"""Records: where they come from, which are held out, and how they are dealt to workers."""

from fedcore.data.dataset import Dataset, Table
from fedcore.data.dealing import Dealt, deal
from fedcore.data.holdings import Holdings
from fedcore.data.partitions import partition
from fedcore.data.sources import load

__all__ = ["Dataset", "Dealt", "Holdings", "Table", "deal", "load", "partition"]
