"""The micro benchmarks' table, from the file that pytest-benchmark wrote.

python -m pytest bench --benchmark-only --benchmark-json=build/bench/micro.json
python bench/micro.py --readme
"""

from __future__ import annotations

import json
import shlex
import sys
from typing import Any

from harness import RESULTS, arguments, database_url, report, table


def main() -> None:
    options = arguments(__doc__.splitlines()[0]).parse_args()
    options.database_url = database_url(options.database_url)
    measured: list[dict[str, Any]] = json.loads((RESULTS / "micro.json").read_text())["benchmarks"]
    rows = [
        [
            entry["fullname"].split("/")[-1].partition(".py")[0].removeprefix("test_bench_").replace("_", " "),
            entry["name"].removeprefix("test_").replace("_", " "),
            f"{entry['extra_info']['ns_per_item']:,.0f}",
        ]
        for entry in sorted(measured, key=lambda entry: (entry["fullname"].partition("::")[0], entry["fullname"]))
    ]
    text = "Nanoseconds an item, medians of 30 rounds.\n\n" + table(["of", "what", "ns"], rows)
    figures = {row[1]: row[2] for row in rows}
    command = "python -m pytest bench --benchmark-only --benchmark-json=build/bench/micro.json"
    report("micro_table", text, {"figures": figures}, options, f"{command} && {shlex.join(['python', *sys.argv])}")


if __name__ == "__main__":
    main()
