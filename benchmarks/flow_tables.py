"""Flows on tables: how likely new rows are, from how many rows, in equal time.

    python -m benchmarks flow_tables --data DIR

The rivals and the watch are those of the topic `flows`; the protocol is that of
`tables`: one random split of each table, 80 % to train on, of which the first 100, 300,
1000 or all rows are taken, 10 % for the test. Each run has FLOWS_TABLE_SECONDS (30) of
CPU time; FLOWS_TABLES (names with commas between) chooses among the tables. All come
from the UCI repository.
"""

import os
import pathlib
import sys
from argparse import Namespace

import numpy as np

from .flows import (
    environment,
    line_style,
    panels_of_cases,
    records,
    save_with_legend,
)
from .tables import read, split

_SECONDS = float(os.environ.get("FLOWS_TABLE_SECONDS", "30"))
_FEW = (100, 300, 1000)
_TABLES = {
    "power plant": "power-plant.txt",
    "shuttle": "32_shuttle.npz",
    "magic": "22_magic.gamma.npz",
    "protein": "protein-tertiary-structure.txt",
    "pendigits": "28_pendigits.npz",
}


def report(options: Namespace) -> dict:
    """Runs all rivals on all tables, prints what they reach, and returns the record."""
    if options.data is None:
        sys.exit("flow_tables: say where the tables lie, by --data")
    names = os.environ.get("FLOWS_TABLES", ",".join(_TABLES)).split(",")
    results = []
    for name in names[:1] if options.quick else names:
        table = read(options.data / _TABLES[name])
        for n in _FEW[:1] if options.quick else (*_FEW, len(table) * 8 // 10):
            print(f"{name}, {n} rows of {table.shape[1]}")
            data = split(table, n, options.dtype)
            case = {"case": name, "num_train": n, "dim": table.shape[1]}
            budget = 5.0 if options.quick else _SECONDS
            results += [case | record for record in records(data, (budget,))]
    found = environment(options.dtype)
    return {"topic": "flow_tables", "environment": found, "results": results}


def plot(report: dict, path: pathlib.Path) -> None:
    """Likelihood at the end against the number of rows, a panel for each table."""
    figure, panels, found = panels_of_cases(report, 3.6)
    rivals = list(dict.fromkeys(r["rival"] for r in found))
    for case, panel in panels.items():
        mine = [r for r in found if r["case"] == case]
        best = max(r["log_likelihood"][-1] for r in mine)
        for number, rival in enumerate(rivals):
            ends = [
                (r["num_train"], r["log_likelihood"][-1])
                for r in mine
                if r["rival"] == rival
            ]
            if ends:
                style = "o" + line_style(rival)
                panel.plot(*np.transpose(ends), style, color=f"C{number}", label=rival)
        panel.set_xscale("log")
        # what falls far behind is cut off
        panel.set_ylim(best - 1.2 * mine[0]["dim"], best + 0.5)
        panel.set_title(f"{case}, {mine[0]['dim']} columns")
    figure.supxlabel("rows to train on")
    figure.supylabel("log-likelihood of test rows (nats)")
    save_with_legend(figure, path)
