"""Run the benchmarks and print the ratios, each group against its first row.

    python -m benchmarks.table [--out benchmarks/results/NAME.json] [pytest arguments]

With `--out` they are written as JSON too. Of separate benchmarks the minima over rounds are
compared, since a shared machine only ever adds time; steps that take turns bring their own ratio.
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


def main() -> None:
    """Run pytest-benchmark in a process of its own and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path)
    arguments, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "raw.json"
        # Where tests are shared out among processes, nothing is measured.
        switches = ["-q", "--dist=no", "--benchmark-enable", f"--benchmark-json={file}"]
        command = [sys.executable, "-m", "pytest", *switches, *(rest or ["benchmarks"])]
        subprocess.run(command, check=True)
        raw = json.loads(file.read_text())
    rows = ratios(raw["benchmarks"])
    for row in rows:
        print(f"{row['group']:38} {row['name']:46} {row['ms']:9.2f} ms {row['ratio']:7.2f} x")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


def ratios(benchmarks: list[dict]) -> list[dict]:
    """Return a row for each thing measured, with its time over that of its group's baseline."""
    rows, bases = [], {}
    for item in benchmarks:
        group, info = item["group"], dict(item["extra_info"])
        turns = {name: value for name, value in info.items() if isinstance(value, dict)}
        rows += [{"group": group, "name": name, **value} for name, value in turns.items()]
        if not turns:
            name, ms = item["params"]["name"], 1e3 * item["stats"]["min"]
            bases.setdefault(group, ms)  # the first row of a group is what it is compared with
            rows.append({
                "group": group,
                "name": name,
                "ms": ms,
                "ratio": ms / bases[group],
                **info,
            })
    return rows


def machine() -> dict:
    """Return what the figures were taken on."""
    import jax  # here, so that it holds no accelerator while the benchmarks run

    packages = ("jax", "jaxlib", "optax", "numpy")
    return {
        "device": jax.devices()[0].device_kind,
        "host": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


if __name__ == "__main__":
    main()
