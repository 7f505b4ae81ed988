"""The micro benchmarks against a stored run of them: which part has become slower, apart from the machine.

    python -m pytest bench --benchmark-only --benchmark-json=build/bench/micro.json
    python bench/baseline.py                 # compare; exit 1 if a part has become slower
    python bench/baseline.py --store         # this run is the baseline from now on

Another machine, or a busy one, makes everything slower. So each ratio is held against the median of all of them: what
stands out from that has changed by itself.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

from harness import RESULTS, ROOT, table

BASELINE = ROOT / "bench" / "baseline.json"
SLOWER = 1.3  # these loops take nanoseconds: less than a third is noise on a shared machine


def measured(file: Path) -> dict[str, float]:
    """Nanoseconds an item by benchmark, from the file that pytest-benchmark wrote: of the quickest round, which what
    else runs on the machine has disturbed least."""
    return {
        entry["fullname"].split("/")[-1]: round(entry["stats"]["min"] / entry["extra_info"]["items"] * 1e9, 2)
        for entry in json.loads(file.read_text())["benchmarks"]
    }


def compare(before: dict[str, float], now: dict[str, float], slower: float) -> tuple[list[list[str]], list[str]]:
    """The table's rows, and the names of what has become slower by more than all the rest."""
    both = sorted(before.keys() & now.keys())
    machine = statistics.median(now[name] / before[name] for name in both) if both else 1.0
    rows, worse = [], []
    for name in sorted(before.keys() | now.keys()):
        if name not in both:
            rows.append([name, *(f"{of[name]:,.1f}" if name in of else "" for of in (before, now)), "", "only in one"])
            continue
        ratio = now[name] / before[name]
        if ratio / machine > slower:
            worse.append(name)
        remark = "slower" if name in worse else "faster" if ratio / machine < 1 / slower else ""
        rows.append([name, f"{before[name]:,.1f}", f"{now[name]:,.1f}", f"{ratio / machine:.2f}", remark])
    return rows, worse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=RESULTS / "micro.json", help="what pytest-benchmark wrote")
    parser.add_argument("--baseline", type=Path, default=BASELINE)
    parser.add_argument("--slower", type=float, default=SLOWER, help="from which ratio on it is called slower")
    parser.add_argument("--store", action="store_true", help="make this run the baseline")
    options = parser.parse_args()
    now = measured(options.run)
    if options.store:
        options.baseline.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n")
        return
    rows, worse = compare(json.loads(options.baseline.read_text()), now, options.slower)
    print(table(["part", "baseline ns", "now ns", "ratio, machine apart", ""], rows))
    if worse:
        sys.exit(f"slower than the baseline: {', '.join(worse)}")


if __name__ == "__main__":
    main()
