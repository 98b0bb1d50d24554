"""How long importing the package takes: the median of fresh Pythons, less that of an empty one.

Run: python benchmarks/import_time.py
"""

import subprocess
import sys
import time
from statistics import median

RUNS = 21
EMPTY = "pass"
IMPORTS = ("import course_utils", "from course_utils import doctor")


def seconds(code: str) -> float:
    """The time of one fresh Python that runs `code`."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - begin


def main() -> None:
    """Print the seconds that each import adds."""
    # Taking turns: what else the machine does then weighs on all of them alike.
    rounds = [{code: seconds(code) for code in (EMPTY, *IMPORTS)} for _ in range(RUNS)]
    for code in IMPORTS:
        added = median(times[code] - times[EMPTY] for times in rounds)
        print(f"{code:32} {added:.3f} s (median of {RUNS})")


if __name__ == "__main__":
    main()
