"""One process of two, that ends as it is told: python one_of_two.py WHAT [FOLDER FOLDER]."""

import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from surgjax import multihost
from surgjax.errors import UserError, run


def main() -> int:
    what, *folders = sys.argv[1:]
    with multihost.job("on") as joined:
        print(joined, flush=True)
        is_second = os.environ["JAX_PROCESS_ID"] == "1"
        if what == "shared":
            multihost.SHARED_S = 2
            multihost.check_shared(Path(folders[0]))
            multihost.check_shared(Path(folders[is_second]))
        multihost.together("here")
        if what == "fails" and is_second:
            raise UserError("a mistake of one process")
        if what == "dies" and is_second:
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "evaluates":
            time.sleep(0 if is_second else 8)
            return 0
        multihost.together("there")
    return 0


run(main)
