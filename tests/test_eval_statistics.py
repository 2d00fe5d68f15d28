"""Intervals, paired tests and GRIM against other ways to compute them; the paper's tables."""

from __future__ import annotations

import itertools
import random
from fractions import Fraction
from math import comb
from pathlib import Path

import numpy as np
import pytest
from conftest import run_module
from hypothesis import given
from hypothesis import strategies as st

from eval.audit import PUBLISHED, grim_table, lead, load_published
from eval.statistics import (
    chance_of_passing,
    cluster_interval,
    grim,
    holm,
    macro_f1,
    mcnemar,
    paired_interval,
    permutation,
    share_interval,
    unpaired_z,
)
from medgpt.errors import UserError

SMALL = st.integers(0, 30)


@given(SMALL, SMALL)
def test_mcnemar_is_the_exact_binomial_test(first: int, second: int) -> None:
    """By summing the probability of every outcome that is as unlikely as the one seen, or more so."""
    total = first + second
    likely = [Fraction(comb(total, count), 2**total) for count in range(total + 1)]
    expected = sum(p for p in likely if p <= likely[first])
    assert mcnemar(first, second) == pytest.approx(float(expected))
    assert mcnemar(first, second) == mcnemar(second, first)


def test_mcnemar_known_values() -> None:
    assert mcnemar(0, 0) == 1
    assert mcnemar(5, 5) == 1
    assert mcnemar(0, 6) == 2 / 64
    assert mcnemar(400, 500) == pytest.approx(0.00096, abs=5e-5)
    with pytest.raises(ValueError, match="negative"):
        mcnemar(-1, 2)


VALUES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=12)


@given(VALUES)
def test_permutation_of_few_clusters_tries_every_swap(rows: list[tuple[int, int, int]]) -> None:
    clusters = sorted({cluster for _, _, cluster in rows})
    observed = abs(sum(a - b for a, b, _ in rows))
    extreme = 0
    for swaps in itertools.product((1, -1), repeat=len(clusters)):
        sign = dict(zip(clusters, swaps, strict=True))
        extreme += abs(sum(sign[cluster] * (a - b) for a, b, cluster in rows)) >= observed
    columns = [[float(row[0]) for row in rows], [float(row[1]) for row in rows], [row[2] for row in rows]]
    expected = extreme / 2 ** len(clusters)
    assert permutation(columns[0], columns[1], columns[2]) == pytest.approx(expected)
    assert permutation(columns[1], columns[0], columns[2]) == pytest.approx(expected)


def test_permutation_of_many_clusters_agrees_with_mcnemar() -> None:
    """With single items as clusters it draws from the distribution that McNemar's test sums up."""
    first = [1.0] * 40 + [0.0] * 60
    second = [0.0] * 40 + [1.0] * 60
    drawn = permutation(first, second, range(100))
    assert drawn == permutation(first, second, range(100))
    assert drawn == pytest.approx(mcnemar(40, 60), abs=0.01)


def test_permutation_respects_clusters() -> None:
    """Twenty copies of one difference are one piece of evidence, not twenty."""
    assert permutation([1.0] * 20, [0.0] * 20, ["a"] * 20) == 1
    assert permutation([1.0] * 20, [0.0] * 20, range(20)) < 0.001


def test_cluster_interval_covers() -> None:
    """Of 200 samples of 60 patients with 1 to 5 equal items each, about 95 % of the intervals hold the truth."""
    state = random.Random(7)
    covered = narrower = 0
    for _ in range(200):
        values, clusters = [], []
        for patient in range(60):
            right = float(state.random() < 0.6)
            for _ in range(3):
                values.append(right)
                clusters.append(patient)
        found, by_item = cluster_interval(values, clusters), cluster_interval(values, range(len(values)))
        assert found is not None
        assert by_item is not None
        covered += found.low <= 0.6 <= found.high
        narrower += by_item.high - by_item.low < found.high - found.low
    assert 180 <= covered <= 199
    assert narrower == 200


def test_cluster_interval_is_the_bootstrap_of_a_ratio() -> None:
    """Against a plain loop with other random numbers; clusters differ in size."""
    values = [1.0, 1, 0, 1, 0, 0, 1, 1, 0, 1, 1, 1]
    clusters = ["a", "a", "a", "b", "c", "c", "d", "e", "e", "e", "f", "g"]
    groups = {name: [v for v, c in zip(values, clusters, strict=True) if c == name] for name in set(clusters)}
    state = random.Random(1)
    means = []
    for _ in range(20_000):
        drawn = [groups[state.choice("abcdefg")] for _ in range(7)]
        means.append(sum(map(sum, drawn)) / sum(map(len, drawn)))
    low, high = np.percentile(means, [2.5, 97.5])
    found = cluster_interval(values, clusters)
    assert found is not None
    assert found.mean == pytest.approx(8 / 12)
    assert (found.low, found.high) == (pytest.approx(low, abs=0.03), pytest.approx(high, abs=0.03))
    assert (found.items, found.clusters) == (12, 7)
    assert found == cluster_interval(values, clusters)


def test_intervals_at_the_ends() -> None:
    assert cluster_interval([], []) is None
    one = cluster_interval([1.0, 0.0], ["a", "a"])
    assert one is not None
    assert (one.low, one.high) == (float("-inf"), float("inf"))
    perfect = share_interval([True] * 20, range(20))
    assert perfect is not None
    assert (perfect.low, perfect.high) == (pytest.approx(0.8389, abs=1e-4), 1)  # Wilson, 20 of 20
    none = share_interval([False] * 20, range(20))
    assert none is not None
    assert (none.low, none.high) == (0, pytest.approx(0.1611, abs=1e-4))


def test_paired_interval_is_of_the_difference() -> None:
    found = paired_interval([1.0, 1, 0], [0.0, 1, 0], range(3))
    assert found is not None
    assert found.mean == pytest.approx(1 / 3)


def test_holm() -> None:
    # Worked by hand: sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1, never falling.
    assert holm({"a": 0.04, "b": 0.01, "c": 0.03, "d": 0.02}) == pytest.approx(
        {"a": 0.06, "b": 0.04, "c": 0.06, "d": 0.06}
    )
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_macro_f1() -> None:
    pairs = [("yes", "yes"), ("yes", "no"), ("no", "no"), ("maybe", None)]
    assert macro_f1(pairs) == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert macro_f1([]) is None


@given(st.integers(1, 5000), st.data())
def test_grim_finds_every_count(items: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, items))
    found = grim(f"{100 * count / items:.2f}", items)
    assert found is not None
    assert f"{100 * found / items:.2f}" == f"{100 * count / items:.2f}"


@given(st.integers(1, 300), st.integers(0, 1000))
def test_grim_against_all_counts(items: int, tenths: int) -> None:
    printed = f"{tenths / 10:.1f}"
    possible = any(
        abs(Fraction(100 * count, items) - Fraction(printed)) <= Fraction(1, 20) for count in range(items + 1)
    )
    assert (grim(printed, items) is not None) == possible


def test_grim_reads_decimals_and_refuses_nonsense() -> None:
    assert grim("61.5", 13) == 8
    assert grim("61.50", 13) is None  # 8/13 is 61.54
    assert grim("100.00", 7) == 7
    for printed in ("abc", "101", "-1", "nan"):
        with pytest.raises(ValueError, match="no "):
            grim(printed, 10)
    with pytest.raises(ValueError, match="at least one"):
        grim("50", 0)


def test_chance_of_passing_is_that_of_the_reference() -> None:
    given_ = {2000: 0.20, 836: 0.08, 2851: 0.29, 175: 0.02, 286: 0.03, 1273: 0.13, 500: 0.05, 4183: 0.42, 2450: 0.25,
              1395: 0.14, 298: 0.03, 4936: 0.49}  # fmt: skip
    assert {items: round(chance_of_passing(items), 2) for items in given_} == given_


# The paper's tables --------------------------------------------------------------------------------------------------


def test_recorded_grim_counts() -> None:
    """Of the twelve multiple-choice rows each model fails as often as the study found."""
    published = load_published()
    rows = [row for row in published.rows if row.table in ("4", "5")]
    assert len(rows) == 12
    failed = {model: sum(row.grim[place] == "n" for row in rows) for place, model in enumerate(published.models)}
    assert failed == {
        "MedGPT-oss": 11, "OctoMed-7B": 6, "Hulu-Med-32B": 1, "Lingshu-32B": 10, "MedGemma-27B": 1, "QoQ-Med-32B": 5,
    }  # fmt: skip


def test_grim_of_printed_figures_agrees_with_the_record() -> None:
    decided = [cell for cell in grim_table(load_published()) if cell.possible is not None]
    # What was recorded was read off the paper apart from these figures: a wrong digit would disagree.
    assert len(decided) == 84
    assert all(cell.possible == cell.recorded for cell in decided)
    counts = {(cell.row, cell.model): cell.count for cell in decided if cell.possible}
    assert counts["MedXQA (multimodal)", "Hulu-Med-32B"] == 687 and counts["MedMCQA", "Hulu-Med-32B"] == 3043


def test_lead_of_the_headline_claim() -> None:
    published = load_published()
    found = lead(published, published.rows[0])
    assert found is not None
    assert found[0] == "Hulu-Med-32B"
    assert found[1] == pytest.approx(9.7, abs=0.05)
    # The z of the reference study, section 1.4, which read them off the paper.
    leads = {row.row: found[1] for row in published.rows if (found := lead(published, row))}
    assert leads["Patient-trial (1-shot)"] == pytest.approx(3.4, abs=0.05)
    assert leads["MedFrameQA"] == pytest.approx(0.15, abs=0.01)
    assert leads["MMMU-Med"] == pytest.approx(0.4, abs=0.05)
    assert unpaired_z(0.5, 0.5, 10) == 0
    assert unpaired_z(0.0, 0.0, 10) == 0


def test_another_table_is_audited(tmp_path: Path) -> None:
    table = tmp_path / "mine.yaml"
    table.write_text(
        "paper: Mine\nmodels: [ours, theirs]\nrows:\n"
        '- {row: Exam, table: "1", n: 8, values: {ours: "62.50", theirs: "60.00"}}\n'
    )
    cells = grim_table(load_published(table))
    assert [(cell.count, cell.possible) for cell in cells] == [(5, True), (None, False)]
    done = run_module("eval.audit", "--table", str(table))
    assert done.returncode == 0
    assert "60.00 is impossible: no k/8" in done.stdout
    assert "62.50 = 5/8 is possible" in done.stdout


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ('n: 2000', "n: 0"), ('table: "4"', "table: 4"), ("grim: nyynyn", "grim: nyynyx"), ('"49.23"', "49.23"),
        ('"49.23"', '"149.23"'), ("MedGPT-oss: ", "Nobody: "), ("grim:", "grimm:"), ("rows:", "row:"),
    ],
)  # fmt: skip
def test_a_broken_table_is_one_line(tmp_path: Path, change: str, said: str) -> None:
    text = PUBLISHED.read_text()
    broken = tmp_path / "broken.yaml"
    broken.write_text(text.replace(change, said))
    assert broken.read_text() != text
    with pytest.raises(UserError) as caught:
        load_published(broken)
    assert "\n" not in str(caught.value)
    assert "broken.yaml" in str(caught.value)
