"""What runs on the pretend device, in a process of its own: a device stays registered in one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# Threads of autograd for the device may abort a Python that ends; everything is written by then.
RUN = "import os, sys, pytest; code = pytest.main(sys.argv[1:]); sys.stdout.flush(); os._exit(code)"


@pytest.mark.timeout(900)  # half a minute on an idle core
def test_on_the_pretend_device() -> None:
    files = sorted(HERE.glob("on_*.py"))
    assert len(files) == 3
    words = [sys.executable, "-c", RUN, "-p", "no:cacheprovider", *files]
    found = subprocess.run(
        words, capture_output=True, text=True, cwd=HERE.parents[1], env=os.environ
    )
    assert found.returncode == 0, found.stdout[-20_000:] + found.stderr[-5_000:]
