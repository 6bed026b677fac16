"""Which lines of the kernels ran: reads what libraries of kind ``coverage`` have left in their folder, through gcov.

``python coverage.py FOLDER [ROOT]`` prints a table of the files below ROOT.
"""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path


def reset(folder):
    for path in Path(folder).glob("*.gcda"):
        path.unlink()


def lines(folder, root, library=None):
    """{file below ``root``: {line: times}}; with what ``library`` (a CDLL) has not written yet."""
    if library is not None:
        library.simt_dump_coverage()
    root, found = Path(root).resolve(), {}
    for data in sorted(Path(folder).glob("*.gcda")):
        done = subprocess.run(["gcov", "--json-format", "--stdout", data], check=True, capture_output=True, text=True)
        for report in map(json.loads, done.stdout.splitlines()):
            for file in report["files"]:
                path = (Path(report["current_working_directory"]) / file["file"]).resolve()
                if root not in path.parents:
                    continue
                counts = found.setdefault(str(path.relative_to(root)), Counter())
                for line in file["lines"]:  # one entry for every instance of a template
                    counts[line["line_number"]] += line["count"]
    return {name: dict(found[name]) for name in sorted(found) if found[name]}


def table(counts):
    """A row per file: share of its lines that ran, and the others."""
    width = max(map(len, counts), default=0)
    rows = []
    for name, count in counts.items():
        missed = sorted(line for line, times in count.items() if times == 0)
        ran = len(count) - len(missed)
        rows.append(
            f"{name:{width}}  {ran:4}/{len(count):<4} {ran / len(count):6.1%}  {_ranges(missed, count)}".rstrip()
        )
    return "\n".join(rows)


def _ranges(missed, count):
    """3, 7-9: neighbours are those with no line that ran between them."""
    groups = []
    for line in missed:
        if groups and not any(count.get(between) for between in range(groups[-1][1] + 1, line)):
            groups[-1][1] = line
        else:
            groups.append([line, line])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in groups)


if __name__ == "__main__":
    print(table(lines(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ".")))
