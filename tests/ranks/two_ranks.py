"""One of several processes: runs a function of :mod:`striped_work` and writes what it returns.

python two_ranks.py RANK SIZE PORT NAME OUTPUT
"""

import json
import sys
from pathlib import Path

import striped_work
import torch

from polopt.ranks import joined

if __name__ == "__main__":
    torch.set_num_threads(1)
    rank, size, port, names, output = sys.argv[1:]
    address = f"127.0.0.1:{port}"
    with joined(int(rank), int(size), address, silence=120.0) as ranks:
        found = {name: getattr(striped_work, name)(ranks) for name in names.split(",")}
    Path(f"{output}.{rank}").write_text(json.dumps(found))
