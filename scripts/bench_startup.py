"""Start-up: `mechsteer --help` and `import mechsteer`, median of fresh processes.

python scripts/bench_startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

CASES = {
    "mechsteer --help": ([sys.executable, "-m", "mechsteer.cli", "--help"], 0.4),
    "import mechsteer": ([sys.executable, "-c", "import mechsteer"], 0.3),
}


def main() -> None:
    print("start-up, seconds (median of 9 fresh processes)")
    for name, (command, wanted) in CASES.items():
        times = []
        for _ in range(9):
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            times.append(time.perf_counter() - began)
        print(f"  {name:20} {statistics.median(times):.3f}  wanted <= {wanted}")


if __name__ == "__main__":
    main()
