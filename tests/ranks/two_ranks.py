"""One of several processes: runs a function of :mod:`striped_work` and writes what it returns.

    python two_ranks.py RANK SIZE PORT NAME OUTPUT
"""

import json
import sys
from pathlib import Path

import torch

from polopt.ranks import joined

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
import striped_work

torch.set_num_threads(1)

if __name__ == "__main__":
    rank, size, port, names, output = sys.argv[1:]
    address = f"127.0.0.1:{port}"
    with joined(int(rank), int(size), address, silence=120.0) as ranks:
        found = {name: getattr(striped_work, name)(ranks) for name in names.split(",")}
    Path(f"{output}.{rank}").write_text(json.dumps(found))
