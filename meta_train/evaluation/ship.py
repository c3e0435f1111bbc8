"""Make the shipped results anew: `python -m meta_train.evaluation.ship FOLDER...`, folders of `evaluate`."""

import sys
from pathlib import Path

from meta_train.evaluation.store import SHIPPED, ship

if __name__ == "__main__":
    target = Path(__file__).with_name(SHIPPED)
    print(f"{ship(map(Path, sys.argv[1:]), target)} results in {target}")
