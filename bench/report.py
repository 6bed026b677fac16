"""Result rows as text: tables for the terminal, Markdown for the README."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from . import bars
from .cases import OURS, RARE_NOISE, RARE_NOISE_PEER

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
UNIFORM_BEGIN, UNIFORM_END = "<!-- bench:uniform:begin -->", "<!-- bench:uniform:end -->"
# Above this many involuntary context switches per second the run shared its cores with something.
BUSY_PER_S = 20


def time_text(us: float) -> str:
    """Three significant digits in a fitting unit."""
    for unit, size in (("s", 1e6), ("ms", 1e3)):
        if us >= size:
            return f"{us / size:.3g} {unit}" if us < 1000 * size else f"{us / size:.0f} {unit}"
    return f"{us:.3g} us"


def factor_text(value: float) -> str:
    return f"{value:.2f}x" if value < 10 else f"{value:.0f}x"


def _mib(size: int | None) -> str:
    return "?" if size is None else f"{size / 2**20:.1f} MiB"


# -- terminal


def print_table(title: str, head: Sequence[str], body: Iterable[Sequence[str]], left: int = 1) -> None:
    """A rich table on a terminal, aligned plain text elsewhere or without rich. The first `left` columns are flush
    left, the others right."""
    body = [list(map(str, line)) for line in body]
    if sys.stdout.isatty():
        try:
            from rich.console import Console
            from rich.markup import escape
            from rich.table import Table
        except ImportError:
            pass
        else:
            table = Table(title=escape(title), title_justify="left", title_style="bold")
            for i, name in enumerate(head):
                table.add_column(name, justify="right" if i >= left else "left", no_wrap=not i)
            for line in body:
                # "dlm_kernels[avx2]" is no markup.
                table.add_row(*map(escape, line), style="bold" if line[0].startswith(OURS) else None)
            Console().print(table)
            return
    widths = [max(map(len, column)) for column in zip(head, *body)]
    print(f"\n{title}")
    for line in (head, *body):
        cells = [text.rjust(w) if i >= left else text.ljust(w) for i, (text, w) in enumerate(zip(line, widths))]
        print("  ".join(cells).rstrip(), flush=True)


def print_case(rows: list[dict]) -> None:
    """The side-by-side table of one case: every provider with its step time, or the reason why it has none."""
    case, env = rows[0]["case"], rows[0]["env"]
    title = f"{case['id']} | {env['threads']} threads, {env['allocator']} allocator, {env['backend']}"
    head = ("provider", "step", "p10 .. p90", "time / ours", "GB/s", "extra memory", "outputs")
    print_table(title, head, map(_case_line, rows))
    floor = next((row["roofline"] for row in rows if row.get("roofline") and row["provider"]["name"] == OURS), None)
    if floor:
        print(
            f"roofline: {floor['fraction'] * 100:.0f} % ({floor['bound']} bound; read {floor['read_gbps']:.1f} GB/s, "
            f"exp {floor['exp_peak_gels']:.2f} Gel/s per thread); "
            f"{floor['fraction_together'] * 100:.0f} % of what the threads reach together "
            f"({floor['exp_peak_gels_all_threads']:.2f} Gel/s)"
        )


def _case_line(row: dict) -> tuple[str, ...]:
    name, us = row["provider"]["name"], row["us"]
    if us is None:
        return (name, "-", "-", "-", "-", "-", row["skipped"])
    ties = f" ({row['check']['ties']} tied)" if row["check"]["ties"] else ""
    spread = f"{time_text(us['p10'])} .. {time_text(us['p90'])}"
    ratio = factor_text(row["ratio"]["median"]) if row["ratio"] else "-"
    memory = _mib(row["peak_extra_bytes"])
    return (name, time_text(us["median"]), spread, ratio, f"{row['gbps']:.2f}", memory, f"checked{ties}")


def print_bars(found: list[dict]) -> None:
    """Every bar with its measured value, then the count; fails are marked, never left out."""
    body = [(v["work"], v["against"], v["required"], v["measured"], v["verdict"]) for v in found]
    print_table("what must be reached", ("work", "against", "required", "measured", "verdict"), body, left=2)
    print(bars.summary(found))


_RARE_NOISE_HEAD = ("rare noise, 1 of 1000 steps", "rows", "expected", "seen", "share of the exact mass")


def print_rare_noise(rows: list[dict]) -> None:
    """How often ours and dense races drew the tokens that only noise can be; nothing without such rows."""
    if body := _rare_noise(rows):
        print_table("re-noise mass", _RARE_NOISE_HEAD, body)


def _rare_noise(rows: list[dict]) -> list[tuple[str, ...]]:
    kinds = (RARE_NOISE, RARE_NOISE_PEER)
    newest = {row["what"]: row for row in rows if row.get("accuracy") in kinds and row["value"] is not None}
    body = []
    for what, row in newest.items():
        share, error = row["events"] / row["expected"], row["expected"] ** -0.5
        body.append(
            (what, f"{row['rows']}", f"{row['expected']:.1f}", f"{row['events']}", f"{share:.2f} ± {error:.2f}")
        )
    return body


def warn(rows: list[dict]) -> None:
    """Say on stderr what makes these numbers worth less."""
    if any(row["env"]["backend"] == "reference" for row in rows if "env" in row):
        print(
            "note: the native library is not loaded; dlm_kernels was timed on its PyTorch reference",
            file=sys.stderr,
        )
    if (switches := bars.busy(rows)) > BUSY_PER_S:
        print(
            f"note: {switches:.0f} involuntary context switches per second; a busy machine flatters the fused step",
            file=sys.stderr,
        )


# -- files


def load(paths: Iterable[Path]) -> list[dict]:
    """Rows of JSON-lines files, oldest first; ValueError naming file and line for a row of another schema."""
    rows = []
    for path in paths:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            row = json.loads(line)
            if row.get("schema") != "dlm_bench/1":
                raise ValueError(f"{path}:{number}: schema must be dlm_bench/1, got {row.get('schema')!r}")
            rows.append(row)
    return sorted(rows, key=lambda row: row["time"])


def markdown_table(head: Sequence[str], body: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    line = "| {} |".format
    return [
        line(" | ".join(head)),
        "|" + "---|" * left + "---:|" * (len(head) - left),
        *(line(" | ".join(b)) for b in body),
        "",
    ]


def markdown(rows: list[dict]) -> str:
    """The README's tables of the masked family, machine by machine: per temperature the time of each step and its ratio to
    ours, then what must be reached. GPUs come after the CPUs."""
    from . import gpu_report

    out: list[str] = []
    on_gpu = [row for row in rows if row["env"].get("gpu")]
    rows = [row for row in rows if not row["env"].get("gpu") and not bars.of_uniform_family(row)]
    for machine, here in by_machine(rows):
        out += [f"{machine}{_busy_note(here)}:", ""]
        timed = [row for row in here if row.get("us") and row["case"]["op"] == "denoise_step"]
        law_of = lambda row: (filter_text(row["case"]), row["case"]["dist"], row["case"]["temperature"])
        for filtered, dist, temperature in sorted(set(map(law_of, timed))):
            found = [row for row in timed if law_of(row) == (filtered, dist, temperature)]
            law = {"normal3": "N(0, 3)", "normal1": "N(0, 1)"}.get(dist, dist)
            out += [f"One denoise step, temperature {temperature:g}{filtered}, {law} logits: time (time / ours).", ""]
            out += markdown_table(*_speed_table(found))
        out += _must_reach(bars.verdicts(here))
        out += _must_reach(bars.verdicts(here, bars.FILTER_BARS))
    out += gpu_report.markdown(on_gpu)
    return "\n".join(out).rstrip() + "\n"


def filter_text(case: dict) -> str:
    """ ", top_p 0.9" of the case of a row, "" where nothing filters; older rows have not all fields."""
    return "".join(
        f", {name} {case[name]:g}"
        for name, off in (("top_p", 1), ("top_k", 0), ("min_p", 0))
        if case.get(name, off) != off
    )


def uniform_markdown(rows: list[dict]) -> str:
    """The same of the uniform family on CPUs: every case with every provider, the re-noise mass, what must be reached."""
    out: list[str] = []
    rows = [row for row in rows if not row["env"].get("gpu") and bars.of_uniform_family(row)]
    for machine, here in by_machine(rows):
        out += [f"{machine}{_busy_note(here)}:", ""]
        newest = {}
        for row in here:
            if "case" in row:
                newest[row["case"]["id"], row["env"]["allocator"], row["provider"]["name"]] = row
        if newest:
            out += markdown_table(
                ("step", "allocator", "who", "time", "time / ours", "extra memory"), _uniform_body(newest), 3
            )
        if body := _rare_noise(here):
            out += markdown_table(_RARE_NOISE_HEAD, body)
        out += _must_reach(bars.verdicts(here, bars.UNIFORM_BARS))
    return "\n".join(out).rstrip() + "\n"


def _uniform_body(newest: dict[tuple, dict]) -> list[tuple[str, ...]]:
    """One line per provider, the cases in the order of their first measurement, ours first."""
    places = {key[:2]: i for i, key in reversed(list(enumerate(newest)))}
    body = []
    for (case, allocator, name), row in sorted(newest.items(), key=lambda item: places[item[0][:2]]):
        if row["us"] is None:
            cells = ("-", row["skipped"], "-")
        else:
            ratio = factor_text(row["ratio"]["median"]) if row["ratio"] and name != OURS else ""
            cells = (time_text(row["us"]["median"]), ratio, _mib(row["peak_extra_bytes"]))
        body.append((case, allocator, name, *cells))
    return body


def by_machine(rows: list[dict]) -> list[tuple[str, list[dict]]]:
    """(machine, its rows), the latest machine first."""
    names = dict.fromkeys(map(machine_text, reversed(rows)))
    return [(name, [row for row in rows if machine_text(row) == name]) for name in names]


def _must_reach(found: list[dict]) -> list[str]:
    if all(v["verdict"] == bars.UNKNOWN for v in found):
        return []
    return [f"What must be reached: {bars.summary(found)}.", "", *bar_table(found)]


def bar_table(found: list[dict]) -> list[str]:
    """Markdown lines of verdicts."""
    body = [(v["work"], v["against"], v["required"], v["measured"], _loud(v["verdict"])) for v in found]
    return markdown_table(("work", "against", "required", "measured", "verdict"), body, left=2)


def _busy_note(rows: list[dict]) -> str:
    switches = bars.busy(rows)
    return f" (a busy machine: {switches:.0f} involuntary switches/s)" if switches > BUSY_PER_S else ""


def _loud(verdict: str) -> str:
    return f"**{verdict}**" if verdict == bars.FAIL else verdict


def machine_text(row: dict) -> str:
    env = row["env"]
    isa = " ".join(flag for flag in env["isa"] if flag in ("avx2", "avx512f", "asimd", "sve"))
    return f"{env['cpu']} (family/model {env['cpu_family']}, {isa}), {env['threads']} threads, torch {env['torch']}"


def _speed_table(rows: list[dict]) -> tuple[list[str], list[list[str]]]:
    """Providers down, (rows x V, dtype, allocator) across; a cell is the time and the ratio to ours."""
    cells: dict[tuple[str, str], str] = {}
    for row in rows:  # later rows win: the newest run of a problem is the one shown
        case, name = row["case"], row["provider"]["name"]
        column = f"{shape_text(case)} {case['dtype']}, {row['env']['allocator']}"
        ratio = f" ({factor_text(row['ratio']['median'])})" if row["ratio"] and name != OURS else ""
        cells[name, column] = time_text(row["us"]["median"]) + ratio
    names, columns = (list(dict.fromkeys(key[i] for key in cells)) for i in (0, 1))
    return ["", *columns], [[name, *(cells.get((name, column), "-") for column in columns)] for name in names]


def shape_text(case: dict) -> str:
    rows = str(case["rows"]) if case["batch"] == 1 else f"{case['batch']} x {case['rows'] // case['batch']}"
    opened = "" if case["open_rows"] == case["rows"] else f" ({case['open_rows']} open)"
    return f"{rows}{opened} x {case['vocab']}"


def readme(path: Path, rows: list[dict], check: bool) -> bool:
    """Put the tables between the markers of the file at `path`. Returns whether they were up to date; with `check`
    nothing is written. ValueError if markers are missing; those of the uniform family and of loops may be where there are no
    such rows."""
    text = fresh = path.read_text()
    from . import loops_report as loops

    whole_loops = [row for row in rows if loops.of_loops(row)]
    rows = [row for row in rows if not loops.of_loops(row)]
    for begin, end, tables, rows_of, needed in (
        (BEGIN, END, markdown, rows, True),
        (UNIFORM_BEGIN, UNIFORM_END, uniform_markdown, rows, any(map(bars.of_uniform_family, rows))),
        (loops.BEGIN, loops.END, loops.markdown, whole_loops, bool(whole_loops)),
    ):
        counts = (fresh.count(begin), fresh.count(end))
        if counts != (1, 1) and (needed or counts != (0, 0)):
            raise ValueError(f"{path}: must hold {begin} and {end} once each")
        if counts == (1, 1):
            head, rest = fresh.split(begin)
            fresh = f"{head}{begin}\n\n{tables(rows_of)}\n{end}{rest.split(end)[1]}"
    if fresh != text and not check:
        path.write_text(fresh)
    return fresh == text
