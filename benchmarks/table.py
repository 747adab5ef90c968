"""Run the benchmarks and write the ratios, each group against its first row, as one JSON file.

    python -m benchmarks.table [--out benchmarks/results/NAME.json] [pytest arguments]

The minimum over rounds is compared, since a shared machine only ever adds time.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile

BASELINES = ("bare", "one elementwise pass")


def main() -> None:
    """Run pytest-benchmark in a process of its own and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path)
    arguments, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "raw.json"
        command = [sys.executable, "-m", "pytest", "--benchmark-enable", f"--benchmark-json={file}"]
        subprocess.run([*command, "-q", *(rest or ["benchmarks"])], check=True)
        raw = json.loads(file.read_text())
    rows = ratios(raw["benchmarks"])
    for row in rows:
        print(f"{row['group']:38} {row['name']:46} {row['ms']:9.2f} ms {row['ratio']:7.2f} x")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


def ratios(benchmarks: list[dict]) -> list[dict]:
    """Return a row for each benchmark, with its time over that of its group's baseline."""
    rows = []
    for item in benchmarks:
        name = next((str(v) for v in reversed(list((item["params"] or {}).values()))), item["name"])
        name = (item["params"] or {}).get("name", name)
        seconds = item["stats"]["min"]
        rows.append({
            "group": item["group"],
            "name": name,
            "ms": seconds * 1e3,
            **item["extra_info"],
        })
    for row in rows:
        same = [other for other in rows if other["group"] == row["group"]]
        base = next((other for other in same if other["name"] in BASELINES), same[0])
        row["ratio"] = row["ms"] / base["ms"]
    return rows


def machine() -> dict:
    """Return what the figures were taken on."""
    packages = ("jax", "jaxlib", "optax", "numpy")
    return {
        "device": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


if __name__ == "__main__":
    main()
