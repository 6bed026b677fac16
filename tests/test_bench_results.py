"""What is made of result rows once they are kept: pictures, comparisons, the README; and the share that a run reports."""

import argparse
import json
from pathlib import Path

import pytest
from dlm_kernels.bench import cli, compare, plots, report, side_by_side
from dlm_kernels.bench.cases import OURS, Case
from dlm_kernels.bench.timing import Method

ROOT = Path(__file__).parents[1]


def bench(*arguments) -> int:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return cli.main(parser.parse_args(list(map(str, arguments))))


@pytest.fixture(scope="module")
def rows():
    cases = [Case(rows=8, vocab=1500, dtype="fp32", k=3, temperature=t) for t in (0.0, 1.0)]
    seen = []
    made = side_by_side(
        cases,
        [OURS, "llada", "torch_fp32"],
        method=Method(budget_s=0.01, sample_s=0.001, min_rounds=2, max_rounds=3),
        roofline=True,
        on_progress=lambda text, done: seen.append((text, done)),
    )
    shares = [done for _, done in seen]
    assert shares == sorted(shares) and shares[0] == 0 and 0.7 < shares[-1] < 1
    assert {text.split()[0] for text, _ in seen} == {"checking", "timing"}
    loop = {"name": "toy", "line": "accelerate(toy)", "vocab": 8, "rows": 1, "steps": 4, "same": True, "at_least": 0.0}
    spread = {"p10": 1.0, "p90": 1.0, "min": 1.0}
    whole = {
        "schema": made[0]["schema"],
        "time": made[0]["time"],
        "loop": loop,
        "before": {"share": 0.75, "median": 8.0, **spread},
        "after": {"share": 0.5, "median": 4.0, **spread},
        "ratio": {"median": 2.0, "pairs": 3},
        "skipped": "",
        "env": made[0]["env"],
    }
    return [*made, whole]


def copied(rows, ours_takes=1.0, peers_take=1.0):
    """The same rows as another run has them, whose machine was slower."""
    again = json.loads(json.dumps(rows))
    for row in again:
        factor = ours_takes if row.get("provider", {}).get("name") == OURS else peers_take
        if row.get("us"):
            row["us"] = {key: value * factor for key, value in row["us"].items()}
    return again


def kept(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_pictures_of_rows(rows, tmp_path):
    """All four, with every case and provider by name, the numbers that the rows have, and nothing random in them."""
    written = plots.write(rows, tmp_path / "a")
    assert [path.name for path in written] == ["times.svg", "ratios.svg", "throughput.svg", "loops.svg"]
    for path, again in zip(written, plots.write(rows, tmp_path / "b")):
        assert path.read_bytes() == again.read_bytes()
    texts = {path.stem: path.read_text() for path in written}
    for name in ("times", "ratios"):
        assert "llada 8 x 1500 fp32 T=0" in texts[name] and "llada 8 x 1500 fp32 T=1" in texts[name]
        assert "torch_fp32" in texts[name]
    peer = next(row for row in rows if row.get("case") and row["provider"]["name"] == "llada")
    assert report.factor_text(round(peer["ratio"]["median"], 3)) in texts["ratios"]  # as it is kept
    assert "% of the" in texts["throughput"]
    assert "toy" in texts["loops"] and "2 s a step" in texts["loops"] and "1 s a step" in texts["loops"]
    assert plots.write(rows, tmp_path / "a", "png")[0].read_bytes().startswith(b"\x89PNG")


def test_a_picture_of_other_rows_is_outdated(rows, tmp_path):
    plots.write(rows, tmp_path)
    assert plots.outdated(rows, tmp_path) == []
    assert plots.outdated(copied(rows, ours_takes=1.5), tmp_path) == ["times"]
    (tmp_path / "loops.svg").unlink()
    assert plots.outdated(rows, tmp_path) == ["loops"]


def test_then_and_now(rows):
    """Twice the time on a machine twice as slow: times double, what is paired within a run does not change."""
    same = compare.compare(rows, copied(rows, 2.0, 2.0))
    assert [(each["case"], each["provider"]) for each in same] == [
        *((row["case"]["id"], row["provider"]["name"]) for row in rows if row.get("case")),
        ("toy", "the client's own"),
        ("toy", OURS),
    ]
    timed = [each for each in same if each["case"] != "toy"]
    assert all(each["ratio"] == pytest.approx(2) for each in timed)
    against = [each["against"] for each in timed if each["provider"] != OURS]
    assert all(then == now for then, now in against)
    assert all(each["roofline"] for each in timed if each["provider"] == OURS)
    assert compare.slower(same, 1.9) == [each for each in timed if each["provider"] == OURS]
    assert compare.slower(same, 2.1) == []


def test_the_newest_row_counts_and_others_are_told(rows, capsys):
    later = copied(rows, 3.0)
    then = [row for row in rows if row.get("case") and row["provider"]["name"] != "torch_fp32"]
    found = compare.compare(then, [*rows, *later])
    assert all(each["ratio"] == pytest.approx(3) for each in found if each["provider"] == OURS)
    compare.print_comparison(then, [*rows, *later], found)
    printed = capsys.readouterr().out
    assert "4 rows stand in one of the two only" in printed and "3.00x" in printed and "now:" not in printed
    other = copied(then)
    for row in other:
        row["env"]["cpu"] = "another"
    compare.print_comparison(then, other, compare.compare(then, other))
    assert "now:  another" in capsys.readouterr().out


def test_commands(rows, tmp_path, capsys):
    old, new = kept(tmp_path / "old.jsonl", rows), kept(tmp_path / "new.jsonl", copied(rows, 1.5))
    assert bench("compare", old, new) == 0 and "1.50x" in capsys.readouterr().out
    assert bench("compare", old, new, "--slower-than", 1.6) == 0
    assert bench("compare", old, new, "--slower-than", 1.4) == 1
    assert "slower: " in capsys.readouterr().err
    assert bench("plot", old, "--plot", tmp_path / "p", "--format", "png") == 0
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == [
        "loops.png", "ratios.png", "throughput.png", "times.png",
    ]  # fmt: skip
    empty = kept(tmp_path / "empty.jsonl", [])
    for arguments, message in (
        (("compare", old), "compare: must name two result files, OLD and NEW, got 1"),
        (("compare", old, empty), "compare: the files must have a problem in common, got none"),
        (("compare", old, tmp_path / "none"), f"results: must be existing files, got {tmp_path / 'none'}"),
        (("plot", empty, "--plot", tmp_path), "plot: must have rows with times, got none"),
        (("run", old), f"files: must be given with plot or compare only, got {old}"),
    ):
        assert bench(*arguments) == 2 and message in capsys.readouterr().err


def test_plots_of_a_readme_that_shows_them(rows, tmp_path):
    results, readme = kept(tmp_path / "rows.jsonl", rows), tmp_path / "README.md"
    readme.write_text(
        f"{report.BEGIN}\n{report.END}\n<!-- bench:loops:begin -->\n<!-- bench:loops:end -->\n![](docs/plots/ratios.svg)\n"
    )
    arguments = ("--readme", readme, "--results", results)
    assert bench(*arguments, "--check") == 1 and not (tmp_path / "docs").exists()
    assert bench(*arguments) == 0 and bench(*arguments, "--check") == 0
    assert [path.name for path in (tmp_path / "docs" / "plots").iterdir()] == ["ratios.svg"]
    for row in (other := copied(rows)):
        if row.get("case"):
            row["ratio"]["median"] *= 1.002  # less than the table shows
    kept(results, other)
    assert bench(*arguments, "--check") == 1


def test_the_readme_shows_the_results_that_are_kept(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert bench("--readme", "README.md", "--check") == 0
