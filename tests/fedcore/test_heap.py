"""Freed memory is there for the next allocation."""

import platform
import subprocess
import sys

import pytest

# In a process of its own: what other tests allocated and freed would count.
SCRIPT = """
import psutil
import torch
from fedcore.heap import keep_freed_memory

keep_freed_memory()
memory = psutil.Process().memory_info
before = memory().rss
blocks = [torch.ones(2**18) for _ in range(40)]
del blocks
print((memory().rss - before) / 2**20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc is what is told")
def test_forty_mebibytes_that_were_freed_stay_with_the_process():
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert float(run.stdout) > 30
