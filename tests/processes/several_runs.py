"""Run by test_runs under torchrun: several runs one after another in the same processes, since importing takes longer than a run.

torchrun --nproc_per_node W several_runs.py RUNS.json          a list of lists of overrides
"""

import json
from pathlib import Path
import sys

from hires import config as configuration
from hires.ground import distributed
from hires.training.trainer import Trainer

if __name__ == "__main__":
    world = distributed.start(threads=1)
    for overrides in json.loads(Path(sys.argv[1]).read_text()):
        code = Trainer(configuration.load("train", overrides), world).train()
        assert code == 0, overrides
    distributed.stop()
