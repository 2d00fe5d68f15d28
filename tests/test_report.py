"""The report: what it shows equals what the evidence holds, and nothing of the data escapes into the page's code."""

from __future__ import annotations

import base64
import hashlib
import io
import random
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from manifests.proof.evidence import EVIDENCE, LEVELS
from manifests.proof.highlight import RUN, SHARED, shared_ranges
from manifests.proof.report import Pair, Report, Side, choose_pairs, count_cells, render, write_report
from medgpt.errors import UserError
from medgpt.text import normalise

KINDS = [(level, kind) for level, kinds in LEVELS.items() for kind in kinds]
CELL = ("train_build", "eval_build", "eval_split")


# ---- a made-up proof


def evidence_row(**values: Any) -> dict[str, Any]:
    row = dict.fromkeys(EVIDENCE.names) | {
        "level": "near_text", "kind": "passage", "action": "exclude", "train_build": "medreason",
        "train_split": "train",
        "train_sample": "medreason/train/1", "eval_build": "medqa", "eval_split": "test", "eval_sample": "medqa/test/1",
    }  # fmt: skip
    return row | values


def random_rows(count: int, seed: int) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        level, kind = rng.choice(KINDS)
        # Two builds of one source share sample ids.
        train, source = rng.choice([("slake", "slake"), ("slake.paper", "slake"), ("medqa", "medqa")])
        tests, split = rng.choice([("slake", "test"), ("slake", "validate"), ("mmlu", "test")])
        rows.append(
            evidence_row(
                level=level,
                kind=kind,
                action=rng.choice(["exclude", "report", "report", "forbid", "wrong"]),
                train_build=train,
                train_sample=f"{source}/train/{rng.randrange(12)}",
                eval_build=tests,
                eval_split=split,
                eval_sample=f"{tests}/{split}/{rng.randrange(9)}",
                score=rng.choice([None, 0.5, round(rng.random(), 4)]),
                words=rng.choice([None, rng.randrange(8, 40)]),
                distance=rng.choice([None, rng.randrange(0, 10, 2)]),
            )
        )
    rows.sort(key=lambda row: [str(row[name]) for name in EVIDENCE.names])
    return rows


def write_evidence(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows, EVIDENCE), path)
    return path


def make_certificate(rows: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    grouped: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        grouped[tuple(row[name] for name in (*CELL, "level", "kind", "action"))].append(row)
    excluded = {(row["train_build"], row["train_sample"]) for row in rows if row["action"] == "exclude"}
    left = Counter(
        (row["level"], row["kind"], row["action"])
        for row in rows
        if row["action"] == "forbid" and (row["train_build"], row["train_sample"]) not in excluded
    )
    trains = sorted({row["train_build"] for row in rows} | {"untouched"})
    evals = sorted({(row["eval_build"], row["eval_split"]) for row in rows} | {("pubmedqa", "test")})
    return {
        "format": 1,
        "root": "c0ffee" * 10,
        "builds_root": "ab" * 32,
        "builds": [
            {
                "build": name, "source": name, "revision": "1.0", "license": "CC-BY-4.0", "access": "open",
                "metadata_only": False, "fingerprint_recipe": "phash/pillow-12", "samples": {"train": 100, "eval": 10},
                "root": hashlib.sha256(name.encode()).hexdigest(),
            }
            for name in sorted({*trains, *(build for build, _ in evals)})
        ],
        "policy": {
            "version": 1,
            "images": {"default": {"radius": 8, "threshold": 0.7}},
            "text": {"run_words": [8, 13]},
            "verdicts": ["near_text"],
            "rules": [
                {"level": "id", "action": "exclude"},
                {"level": "near_text", "kinds": ["passage"], "min_words": 13, "action": "report"},
            ],
        },
        "policy_sha256": "12" * 32,
        "rules": {"manifests/proof/near_text.py": "34" * 32},
        "software": {"python": "3.11.7", "numpy": "2.4.6"},
        "coverage": {
            "pictures": {"radiographs": 90},
            "transformations": [
                {"name": "mirror", "pictures": 150, "found": 150, "recall_candidates": 1.0, "recall": 1.0},
                {"name": "rotated 3 degrees", "pictures": 150, "found": 120, "recall_candidates": 0.9, "recall": 0.8},
            ],
            "precision": {"pairs": 700, "wrong": 0},
        },
        "rewrites": {
            "ran": True, "why": None, "coverage": {"rewrites": 53, "found": 0.9},
            "models": [{"model": "english", "sha256": "bc" * 32, "cosine": 0.6}],
        },
        "files": {"evidence": "56" * 32, "exclusions": "78" * 32, "common": "9a" * 32},
        "train_totals": [{"train_build": name, "train_samples": 1_000} for name in trains],
        "eval_totals": [{"eval_build": b, "eval_split": s, "eval_samples": 1_273} for b, s in evals],
        "matrix": [
            {
                **dict(zip((*CELL, "level", "kind", "action"), key, strict=True)),
                "pairs": len(group),
                "train_samples": len({row["train_sample"] for row in group}),
                "eval_samples": len({row["eval_sample"] for row in group}),
            }
            for key, group in sorted(grouped.items())
        ],
        "counts": {"near_image": {"candidates": 12_345, "refuted": 12}},
        "left_out_of_near_text": [{"build": "mimic_cxr", "task": "report", "eval_samples": 3_000}],
        "without_pixels": [{"build": "roco", "role": "train", "images": 77}],
        "accounting": [
            {"side": "train", "build": "roco", "kind": "picture", "state": "declared", "name": "", "count": 77,
             "reason": "policy: no pixels at this site"},
            {"side": "train", "build": "roco", "kind": "row", "state": "compared", "name": "", "count": 5,
             "reason": ""},
        ],
        "sentences": ["What was compared.", "What was read.", "What was found.", "How well.", "How to check it."],
        "exclusions": [
            {"train_build": build, "train_samples": count}
            for build, count in sorted(Counter(build for build, _ in excluded).items())
        ],
        "verdicts": None,
        "benchmarks": {"asked": "present", "held": [], "missing": [{"name": "Medbullets", "splits": {}}]},
        "after": [
            {"level": level, "kind": kind, "action": action, "pairs": count}
            for (level, kind, action), count in sorted(left.items())
        ],
        "clean": not left,
    } | changes  # fmt: skip


def side_of(row: dict[str, Any], role: str, **values: Any) -> Side:
    given = {"access": "open", "text": None, "thumbnail": None, "width": None, "height": None} | values
    names = {name: row[f"{role}_{name}"] for name in ("build", "split", "index")}
    digest = hashlib.sha256(row[f"{role}_sample"].encode()).hexdigest()
    return Side(**names, sample_id=row[f"{role}_sample"], sha256=digest, **given)


def make_report(folder: Path, rows: list[dict[str, Any]], per_cell: int = 50, **sides: dict[str, Any]) -> Report:
    evidence = write_evidence(folder / "evidence.parquet", rows)
    pairs = [
        Pair(row, side_of(row, "train", **sides.get("train", {})), side_of(row, "eval", **sides.get("eval", {})))
        for row in choose_pairs(evidence, per_cell)
    ]
    return Report(make_certificate(rows), count_cells(evidence), pairs)


def picture(kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((96, 96)).save(buffer, kind)
    return buffer.getvalue()


# ---- reading a page


class Node:
    def __init__(self, tag: str, attributes: dict[str, str], parent: Node | None) -> None:
        self.tag, self.attributes, self.parent = tag, attributes, parent
        self.children: list[Node | str] = []

    def __getitem__(self, name: str) -> str:
        return self.attributes[name]

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def all(self, tag: str, **attributes: str) -> list[Node]:
        found = []
        for child in self.children:
            if isinstance(child, Node):
                fits = all(
                    value in child.attributes.get(name.rstrip("_"), "").split() if name == "class_"
                    else child.attributes.get(name) == value
                    for name, value in attributes.items()
                )  # fmt: skip
                if child.tag == tag and fits:
                    found.append(child)
                found += child.all(tag, **attributes)
        return found

    def one(self, tag: str, **attributes: str) -> Node:
        [node] = self.all(tag, **attributes)
        return node


class Page(HTMLParser):
    """A strict reader: every element is closed in order, and ids are unique."""

    VOID = {"meta", "input", "img", "wbr", "br"}  # noqa: RUF012

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.root = self.at = Node("", {}, None)
        self.ids: set[str] = set()
        self.feed(text)
        self.close()
        assert self.at is self.root

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {name: value or "" for name, value in attrs}, self.at)
        assert len(node.attributes) == len(attrs)
        assert not any(name.startswith("on") for name in node.attributes)
        if "id" in node.attributes:
            assert node["id"] not in self.ids
            self.ids.add(node["id"])
        self.at.children.append(node)
        if tag not in self.VOID:
            self.at = node

    def handle_endtag(self, tag: str) -> None:
        assert self.at.tag == tag
        assert self.at.parent is not None
        self.at = self.at.parent

    def handle_data(self, data: str) -> None:
        self.at.children.append(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.root, name)


def number(text: str) -> int:
    return int(text.replace(",", ""))


# ---- which pairs, which numbers


def naive_choice(rows: list[dict[str, Any]], per_cell: int) -> list[dict[str, Any]]:
    groups: dict[tuple[str, ...], list[tuple[Any, ...]]] = defaultdict(list)
    for place, row in enumerate(rows):
        infinite = float("inf")
        rank = (
            -row["score"] if row["score"] is not None else infinite,
            -row["words"] if row["words"] is not None else infinite,
            row["distance"] if row["distance"] is not None else infinite,
        )
        groups[tuple(row[name] for name in (*CELL, "level", "kind"))].append((rank, place, row))
    ordered = sorted(groups, key=lambda key: (key[:3], KINDS.index((key[3], key[4]))))
    return [
        row for key in ordered for _, _, row in sorted(groups[key], key=lambda found: found[:2])[:per_cell]
    ]  # fmt: skip


@pytest.mark.parametrize("per_cell", [0, 1, 3, 50])
def test_the_strongest_pairs_of_each_cell_and_kind_are_chosen(tmp_path: Path, per_cell: int) -> None:
    rows = random_rows(2_000, seed=per_cell)
    evidence = write_evidence(tmp_path / "evidence.parquet", rows)
    assert choose_pairs(evidence, per_cell) == naive_choice(rows, per_cell)


def naive_cell(rows: list[dict[str, Any]]) -> dict[str, int]:
    def trains(action: str | None) -> int:
        return len({(r["train_build"], r["train_sample"]) for r in rows if action in (None, r["action"])})

    def tests(*actions: str) -> int:
        return len({(r["eval_build"], r["eval_split"], r["eval_sample"]) for r in rows if r["action"] in actions})

    return {
        "pairs": len(rows), "train_samples": trains(None),
        "eval_samples": tests("exclude", "forbid", "report", "wrong"), "eval_met": tests("exclude", "forbid"),
        "excluded": trains("exclude"), "forbidden": trains("forbid"),
    }  # fmt: skip


def naive_cells(rows: list[dict[str, Any]]) -> dict[tuple[Any, ...], dict[str, int]]:
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        cell = tuple(row[name] for name in CELL)
        for side in (cell, (cell[0], None, None), (None, *cell[1:])):
            for scope in ((None, None), (row["level"], None), (row["level"], row["kind"])):
                groups[*side, *scope].append(row)
    return {key: naive_cell(group) for key, group in groups.items()}


def test_counts_equal_an_independent_count(tmp_path: Path) -> None:
    rows = random_rows(3_000, seed=1)
    cells = count_cells(write_evidence(tmp_path / "evidence.parquet", rows))
    keyed = {
        tuple(cell.pop(name) for name in (*CELL, "level", "kind")): cell for cell in map(dict, cells)
    }  # fmt: skip
    assert len(keyed) == len(cells)
    assert keyed == naive_cells(rows)


def test_the_exclusions_by_benchmark_and_source_show_these_numbers_in_every_scope(tmp_path: Path) -> None:
    rows = random_rows(600, seed=2)
    rows += [evidence_row(train_sample=f"medreason/train/{i}", kind="stem", score=0.5) for i in range(1_234)]
    report = make_report(tmp_path, rows, per_cell=2)
    matrix = Page(render(report)).one("table", class_="matrix")
    expected = naive_cells(rows)
    totals = report.certificate["eval_totals"]
    benchmarks = {f"{row['eval_build']}/{row['eval_split']}": (row["eval_build"], row["eval_split"]) for row in totals}
    seen = set()
    for cell in (cell for cell in matrix.all("td") if "data-eval" in cell.attributes):
        train = cell["data-train"] or None
        tests = benchmarks.get(cell["data-eval"], (None, None))
        buttons = cell.all("button")
        if not buttons:
            assert (train, *tests, None, None) not in expected
            continue
        for button in buttons:
            level, _, kind = button["data-scope"].partition("/")
            key = (train, *tests, None if level == "all" else level, kind or None)
            numbers = expected[key]
            # What is only reported stands behind a switch.
            assert ("only" in button["class"].split()) == (not numbers["excluded"] + numbers["forbidden"])
            assert number(button.one("b").text) == numbers["excluded"]
            below, touched = (small.text for small in button.all("small"))
            met = f"{numbers['eval_met']:,}"
            if tests == (None, None):
                assert below == "of 1,000"
            else:
                assert below == (f"{met} of 1,273 met" if train is None else f"{met} met")
            assert touched == f"of {numbers['train_samples']:,} touched"
            assert number(button["data-pairs"]) == numbers["pairs"]
            assert ("forbidden" in button["class"].split()) == bool(numbers["forbidden"])
            seen.add(key)
    assert seen == set(expected)
    heads = [head.text for head in matrix.all("th", scope="row")]
    assert heads == [f"{name}1,273 items" for name in benchmarks] + ["any benchmark"]
    columns = [head.text.partition("1,000")[0] for head in matrix.one("thead").all("th")][2:]
    out = Counter(row["train_build"] for row in {(r["train_build"], r["train_sample"]): r for r in rows
                                                 if r["action"] == "exclude"}.values())  # fmt: skip
    assert columns == sorted({row["train_build"] for row in rows}, key=lambda build: (-out[build], build))
    shade = {b.one("b").text: b["class"].split()[1] for b in matrix.one("tbody").all("button")}
    assert shade["1,234"] == "c5"
    assert shade["1"] in ("c1", "c0")


def test_every_scope_has_a_choice_and_a_rule_so_that_no_script_is_needed(tmp_path: Path) -> None:
    rows = random_rows(300, seed=3)
    page = Page(render(make_report(tmp_path, rows)))
    choices = {choice["value"]: choice for choice in page.all("input", type="radio")}
    style = page.one("style").text
    pairs = Counter(["all"] * len(rows))
    pairs.update(row["level"] for row in rows)
    pairs.update(f"{row['level']}/{row['kind']}" for row in rows)
    assert set(choices) == {"all", *LEVELS, *(f"{level}/{kind}" for level, kind in KINDS)}
    for scope, choice in choices.items():
        assert f'#matrix:has(#{choice["id"]}:checked) .n[data-scope="{scope}"]:not(.only)' in style
        assert f'#matrix:has(#reported:checked):has(#{choice["id"]}:checked) .n[data-scope="{scope}"]' in style
        assert choice.parent is not None
        assert number(choice.parent.one("span", class_="count").text) == pairs[scope]
    assert [scope for scope, choice in choices.items() if "checked" in choice.attributes] == ["all"]


def test_every_chosen_pair_has_a_card_that_says_what_was_found(tmp_path: Path) -> None:
    report = make_report(tmp_path, random_rows(800, seed=4), per_cell=3)
    page = Page(render(report))
    cards = page.all("article")
    assert len(cards) == len(report.pairs) > 100
    options = {
        name: {option["value"] for option in page.one("select", id=name).all("option")}
        for name in ("level", "kind", "train", "eval", "action")
    }
    for card, pair in zip(cards, report.pairs, strict=True):
        row = pair.evidence
        assert card["data-level"] == row["level"]
        assert card["data-kind"] == f"{row['level']}/{row['kind']}"
        assert card["data-train"] == row["train_build"]
        assert card["data-eval"] == f"{row['eval_build']}/{row['eval_split']}"
        assert card["data-action"] == row["action"]
        assert card["data-score"] == ("" if row["score"] is None else f"{row['score']:.4f}")
        assert [found.text for found in card.all("p", class_="id")] == [row["train_sample"], row["eval_sample"]]
        measures = card.one("span", class_="measures").text
        assert ("Hamming distance" in measures) == (row["distance"] is not None)
        assert all(card[f"data-{name}"] in values for name, values in options.items())
    assert f"{len(cards)} pairs are shown of 800 in all" in page.one("p", id="pairs-note").text
    last = Counter(tuple(pair.evidence[name] for name in (*CELL, "level", "kind")) for pair in report.pairs)
    rows = page.one("section", id="pairs").one("table").one("tbody").all("tr")
    shown = {tuple(cell.text for cell in row.all("td"))[:4] for row in rows}
    assert shown == {(t, f"{e}/{s}", f"{lv}/{k}", str(n)) for (t, e, s, lv, k), n in last.items()}


def test_the_same_evidence_gives_the_same_bytes(tmp_path: Path) -> None:
    rows = random_rows(400, seed=5)
    pages = []
    for name in "ab":
        (tmp_path / name).mkdir()
        write_report(tmp_path / name / "report.html", make_report(tmp_path / name, rows))
        pages.append((tmp_path / name / "report.html").read_bytes())
    assert pages[0] == pages[1]
    assert str(tmp_path).encode() not in pages[0]


# ---- header and tables


def test_the_header_says_how_it_stands(tmp_path: Path) -> None:
    out = evidence_row(score=0.9)
    only_reported = evidence_row(kind="stem", action="report", score=0.5)
    forbidden = evidence_row(level="id", kind="pmid", action="forbid", train_sample="medreason/train/2")
    cases = {
        "Clean: no overlap found at any level": [],
        "Clean without exclusions": [only_reported],
        "Clean after exclusions": [out, only_reported],
        "Not clean: overlap is left that the policy does not allow": [out, forbidden],
    }
    for headline, rows in cases.items():
        page = Page(render(make_report(tmp_path, rows)))
        verdict = page.one("h1", id="verdict")
        assert verdict.text.split(maxsplit=1)[1] == headline
        assert page.one("title").text == headline
        assert ("unclean" in verdict["class"].split()) == (forbidden in rows)
        detail = page.one("p", class_="detail").text
        assert ("1 training sample excluded." in detail) == (out in rows)
        assert ("only reports near_text/stem (1 pair)" in detail) == (rows in ([only_reported], [out, only_reported]))
        assert ("Left: id/pmid (1 pair)" in detail) == (forbidden in rows)
        assert page.one("code", id="root").text == "c0ffee" * 10


def test_nothing_is_called_clean_that_is_not_whole(tmp_path: Path) -> None:
    report = make_report(tmp_path, [evidence_row(score=0.9)])
    lacking = {"asked": "policy", "held": [], "missing": [{"name": "Medbullets", "splits": {}}]}
    unread = {"side": "eval", "build": "medqa", "kind": "row", "state": "not compared", "name": "bad_row", "count": 7}
    books = [*report.certificate["accounting"], unread | {"reason": "damaged"}]
    for change, headline, said in (
        ({"benchmarks": lacking}, "Not proved: benchmarks of the policy are not held, or not whole", "Medbullets"),
        ({"accounting": books}, "Not proved: not everything was compared", "eval medqa: row bad_row, 7 (damaged)"),
    ):
        page = Page(render(replace(report, certificate=report.certificate | change)))
        assert page.one("h1", id="verdict").text.split(maxsplit=1)[1] == headline
        assert page.one("h1", id="verdict").one("span")["class"] == "bad"
        assert said in page.one("header", class_="top").text + page.one("section", id="accounting").text
    # After the sentences comes what was not compared, then the exclusions.
    sections = [node["id"] for node in page.one("main").children if not isinstance(node, str)]
    assert sections[:4] == ["accounting", "matrix", "exclusions", "pairs"]


def test_empty_evidence_is_a_page_too(tmp_path: Path) -> None:
    page = Page(render(make_report(tmp_path, [])))
    assert "nothing overlaps" in page.one("p", id="pairs-note").text
    assert not page.all("article")
    assert not page.one("table", class_="matrix").all("button")
    assert {cell.text for cell in page.one("table", class_="matrix").all("td")} == {"0"}


def test_what_is_not_covered_is_said(tmp_path: Path) -> None:
    report = make_report(tmp_path, random_rows(20, seed=6))
    coverage = Page(render(report)).one("section", id="coverage")
    [low, high] = [[cell.text for cell in row.all("td")] for row in coverage.one("tbody").all("tr")]
    assert low == ["rotated 3 degrees", "150", "120", "0.9000", "0.8000", "in part"]
    assert high == ["mirror", "150", "150", "1.0000", "1.0000", "yes"]
    assert "roco: 77 pictures of train samples came without pixels" in coverage.text
    assert "english (SHA-256 of its files " + "bc" * 32 in coverage.text
    assert "mimic_cxr: 3,000 test samples of the task report left out of near text" in coverage.text
    certificate = {**report.certificate, "coverage": None}
    text = Page(render(replace(report, certificate=certificate))).one("section", id="coverage").text
    assert "take none of them as covered" in text


def test_builds_policy_and_provenance_are_all_there(tmp_path: Path) -> None:
    report = make_report(tmp_path, random_rows(50, seed=7))
    certificate = report.certificate
    page = Page(render(report))
    builds = page.one("section", id="builds").text
    assert all(build["root"] in builds and build["build"] in builds for build in certificate["builds"])
    assert certificate["builds_root"] in builds
    rules = [[cell.text for cell in row.all("td")] for row in page.one("section", id="policy").one("tbody").all("tr")]
    assert rules == [
        ["1", "id", "all", "all", "all", "none", "exclude"],
        ["2", "near_text", "passage", "all", "all", "min_words 13", "report"],
    ]
    assert certificate["policy_sha256"] in page.one("section", id="policy").text
    provenance = page.one("section", id="provenance").text
    for value in (*certificate["files"].values(), *certificate["rules"].values(), "3.11.7", "2.4.6", "12,345"):
        assert value in provenance
    excluded = page.one("section", id="exclusions").one("tbody").all("tr")
    out = {row["train_build"]: row["train_samples"] for row in certificate["exclusions"]}
    assert [[cell.text for cell in row.all("td")][:3] for row in excluded] == [
        [row["train_build"], str(out.get(row["train_build"], 0)), "1,000"] for row in certificate["train_totals"]
    ]


def test_common_ngrams_are_listed_most_hit_first_and_capped(tmp_path: Path) -> None:
    report = make_report(tmp_path, [])
    common = [{"ngram": f"which of the following {i}", "eval_df": 30 + i, "train_samples": i} for i in range(400)]
    section = Page(render(replace(report, common=common))).one("section", id="common")
    shown = [[cell.text for cell in row.all("td")] for row in section.one("tbody").all("tr")]
    assert shown == [[c["ngram"], str(c["eval_df"]), str(c["train_samples"])] for c in reversed(common)][:300]
    assert "400 n-grams occur" in section.text
    assert "None on record" in Page(render(report)).one("section", id="common").text


# ---- hostile text, credentialed content, pictures, size


HOSTILE = "</script><script>alert(1)</script> \"'><img src=x onerror=alert(2)> {{cards}} <!-- \x00 \ud800 &lt; \u202e"


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    name = HOSTILE.replace("\ud800", "").replace("\x00", "")
    row = evidence_row(
        train_build=name, train_split=name, train_sample=name, eval_build=name, eval_split=name, eval_sample=name,
        eval_subset=name, value=name, variant=name, decided_on=name, span=name, score=1.0,
    )  # fmt: skip
    sides = {"text": HOSTILE, "access": name, "thumbnail": picture(), "width": 4, "height": 3}
    report = make_report(tmp_path, [row], train=sides, eval=sides)
    certificate = {**report.certificate, "software": {name: name}, "root": name, "policy_sha256": name}
    common = [{"ngram": name, "eval_df": 30, "train_samples": 1}]
    page_text = render(replace(report, certificate=certificate, common=common))
    page = Page(page_text)
    assert len(page.all("script")) == 1
    assert {image["href"].split(",")[0] for image in page.all("image")} == {"data:image/jpeg;base64"}
    seen = HOSTILE.replace("\x00", "\N{REPLACEMENT CHARACTER}").replace("\ud800", "\N{REPLACEMENT CHARACTER}")
    assert [text.text for text in page.all("div", class_="text")] == [seen, seen]
    assert page.one("article")["data-train"] == name
    assert [choice["value"] for choice in page.one("select", id="train").all("option")] == ["", name, "untouched"]
    page_text.encode()


def test_nothing_is_loaded_and_only_the_pages_own_code_may_run(tmp_path: Path) -> None:
    sides = {"text": "some text", "thumbnail": picture(), "width": 4, "height": 3}
    text = render(make_report(tmp_path, random_rows(30, seed=8), train=sides, eval=sides))
    page = Page(text)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"base64,[^\"]*", "", text).replace("// F", ""))
    assert not page.all("link")
    assert all("src" not in script.attributes for script in page.all("script"))
    assert not re.search(r"<[^>]*\sstyle=", text)
    policy = page.one("meta", **{"http-equiv": "Content-Security-Policy"})["content"]
    for tag in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(page.one(tag).text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; ")


@pytest.mark.parametrize("secret", ["train", "eval"])
def test_credentialed_content_is_left_out_unless_asked_for(tmp_path: Path, secret: str) -> None:
    phrase = "heart size is normal and the lungs are clear of infiltrate"
    image = {"train": picture("JPEG"), "eval": picture("PNG")}
    sides = {
        role: {
            "access": "credentialed" if role == secret else "open", "text": f"{role}: {phrase}.",
            "thumbnail": image[role], "width": 10, "height": 20,
        }
        for role in ("train", "eval")
    }  # fmt: skip
    report = make_report(tmp_path, [evidence_row(span=phrase, words=11, score=1.0)], **sides)
    hidden = render(report)
    shown = render(replace(report, show_credentialed=True))
    for role, data in image.items():
        encoded = base64.b64encode(data).decode()
        assert (encoded in hidden) == (role != secret)
        assert encoded in shown
        assert (f"{role}: " in Page(hidden).one("article").text) == (role != secret)
    card = Page(hidden).one("article")
    assert card.one("p", class_="withheld").text == "credentialed, shown with --show-credentialed"
    assert not card.all("mark") + card.all("u") + card.all("p", class_="span")
    assert card.one("section", class_="train" if secret == "train" else "test").one("p", class_="id").text
    assert [mark.text for mark in Page(shown).one("article").all("mark")] == [phrase, phrase]


@pytest.mark.parametrize(
    ("width", "height", "shown"),
    [
        (3_000, 1_500, (192, 96)),
        (500, 1_000, (96, 192)),
        (7, 7, (192, 192)),
        (10_000, 3, (192, 1)),
        (None, None, (192, 192)),
    ],
)
def test_pictures_have_their_true_ratio(
    tmp_path: Path, width: int | None, height: int | None, shown: tuple[int, int]
) -> None:
    row = evidence_row(
        level="near_image", kind="whole", distance=4, variant="mirror", score=0.93, train_index=0, eval_index=2
    )
    sides = {"thumbnail": picture("PNG"), "width": width, "height": height}
    page = Page(render(make_report(tmp_path, [row], train=sides, eval=sides)))
    card = page.one("article")
    images = card.all("svg", role="img")
    assert [(int(image["width"]), int(image["height"])) for image in images] == [shown, shown]
    # One picture on two cards, or on both sides of one, stands once in the page.
    [kept] = [(symbol["id"], symbol.one("image")["href"]) for symbol in page.all("symbol")]
    assert base64.b64decode(kept[1].removeprefix("data:image/png;base64,")) == picture("PNG")
    for image in images:
        use = image.one("use")
        assert (use["href"], int(use["width"]), int(use["height"])) == (f"#{kept[0]}", *shown)
    size = f"{width:,} × {height:,} pixels" if width else "size not known"
    assert [caption.text for caption in card.all("figcaption")] == [size, size]
    assert card.one("span", class_="measures").text == "Hamming distance 4 · test picture as mirror"
    assert [where.text for where in card.all("p", class_="where")] == [
        "medreason · train · image 0 · open", "medqa · test · image 2 · open",
    ]  # fmt: skip


def test_a_page_that_would_be_too_long_keeps_the_strongest_of_every_group(tmp_path: Path) -> None:
    rows = [
        evidence_row(kind=kind, score=score / 100, train_sample=f"medreason/train/{score}", eval_build=build)
        for kind in ("passage", "stem") for build in ("medqa", "mmlu") for score in range(1, 51)
    ]  # fmt: skip
    report = make_report(tmp_path, rows, train={"text": "word " * 300})
    whole = render(report)
    assert len(Page(whole).all("article")) == 200
    limit = len(whole.encode()) // 2
    page = Page(render(report, limit))
    assert len(render(report, limit).encode()) <= limit
    scores = defaultdict(list)
    for card in page.all("article"):
        scores[card["data-kind"], card["data-eval"]].append(card["data-score"])
    counts = [len(group) for group in scores.values()]
    assert len(counts) == 4
    assert 5 < min(counts) <= max(counts) <= min(counts) + 1
    for group in scores.values():
        assert group == [f"{score / 100:.4f}" for score in range(50, 50 - len(group), -1)]
    assert f"{200 - sum(counts)} more pairs were chosen and left out" in page.one("p", id="left-out").text
    shown = [number(row.all("td")[3].text) for row in page.one("section", id="pairs").one("tbody").all("tr")]
    assert sorted(shown) == sorted(counts)
    with pytest.raises(UserError, match="without a single pair and may have 1000; prove fewer"):
        render(report, 1_000)


def test_pictures_have_a_limit_of_their_own_and_what_is_left_out_is_said(tmp_path: Path) -> None:
    def thumbnail(number: int) -> bytes:
        buffer = io.BytesIO()
        Image.effect_noise((96, 96), number + 1).save(buffer, "JPEG")
        return buffer.getvalue()

    rows = [evidence_row(train_sample=f"medreason/train/{n}", score=1 - n / 100) for n in range(20)]
    report = make_report(tmp_path, rows, eval={"thumbnail": thumbnail(0), "width": 96, "height": 96})
    pairs = [
        replace(pair, train=replace(pair.train, thumbnail=thumbnail(n + 1), width=96, height=96))
        for n, pair in enumerate(report.pairs)
    ]
    report = replace(report, pairs=pairs)
    whole = Page(render(report))
    assert len(whole.all("symbol")) == 21 and not whole.all("p", id="pictures-left-out")
    size = sum(len(symbol.one("image")["href"]) for symbol in whole.all("symbol"))
    page = Page(render(report, pictures=size // 2))
    kept = page.all("symbol")
    assert 5 < len(kept) < 15
    assert sum(len(symbol.one("image")["href"]) for symbol in kept) <= size // 2
    # The strongest pairs keep theirs, every card is there, the shared test picture is on each.
    cards = page.all("article")
    assert len(cards) == 20
    assert [len(card.all("use")) for card in cards] == [2] * (len(kept) - 1) + [1] * (21 - len(kept))
    assert all(("picture left out" in card.text) == (len(card.all("use")) == 1) for card in cards)
    assert f"{21 - len(kept)} pictures are left out" in page.one("p", id="pictures-left-out").text


def test_what_the_policy_only_reports_stands_behind_a_switch_and_is_left_out_first(tmp_path: Path) -> None:
    rows = [evidence_row(train_sample=f"medreason/train/{n}", score=0.5) for n in range(30)]
    rows += [evidence_row(kind="stem", action="report", train_sample=f"x/train/{n}", score=1.0) for n in range(30)]
    report = make_report(tmp_path, rows, train={"text": "word " * 300})
    whole = render(report)
    assert "Also count the 30 pairs that the policy only reports" in Page(whole).one("label", class_="switch").text
    cut = Page(render(report, len(whole.encode()) * 3 // 4))
    actions = Counter(card["data-action"] for card in cut.all("article"))
    assert actions["exclude"] == 30 > actions["report"]
    assert not Page(render(make_report(tmp_path, rows[:30]))).all("label", class_="switch")


# ---- marked words


TRAIN = """A 23-year-old   pregnant woman at 22 weeks gestation
presents with BURNING upon urination. She states it started 1 day ago."""
TEST = "Case 7: a 23 year old pregnant woman (at 22 weeks’ gestation) presents with burning upon\nurination!"


def test_the_shared_run_is_marked_in_both_texts_as_they_were_written(tmp_path: Path) -> None:
    span = "a 23 year old pregnant woman at 22 weeks gestation presents with burning upon urination"
    report = make_report(
        tmp_path, [evidence_row(span=span, words=15, score=0.8)], train={"text": TRAIN}, eval={"text": TEST}
    )
    card = Page(render(report)).one("article")
    assert [mark.text for mark in card.all("mark")] == [TRAIN[: TRAIN.index(".")], TEST[8:-1]]
    assert [text.text for text in card.all("div", class_="text")] == [TRAIN, TEST]
    assert card.one("q").text == span
    assert not card.all("p", class_="note")


def test_a_run_that_a_text_does_not_hold_is_said(tmp_path: Path) -> None:
    row = evidence_row(span="one two three four", words=4, score=1.0)
    report = make_report(tmp_path, [row], train={"text": "One, two: three-four."}, eval={"text": "one two three. five"})
    card = Page(render(report)).one("article")
    assert [mark.text for mark in card.all("mark")] == ["One, two: three-four"]
    assert card.one("p", class_="note").text == "Not in the text shown here: the shared run (test)."


def test_a_long_text_is_cut_around_what_matched(tmp_path: Path) -> None:
    text = "before " * 1_000 + "the very run that matters here now " + "after " * 1_000
    row = evidence_row(span="the very run that matters here now", words=7, score=1.0)
    card = Page(render(make_report(tmp_path, [row], train={"text": text}, eval={"text": "short"}))).one("article")
    shown = card.all("div", class_="text")[0]
    assert shown.one("mark").text == "the very run that matters here now"
    before, after = (number(cut.text.split()[0]) for cut in shown.all("i", class_="cut"))
    assert before + after + 2_000 == len(text)
    assert text[before : len(text) - after] in shown.text


def locate(text: str, words: str) -> tuple[int, int] | None:
    """Where a run of words is marked in a text, if it is."""
    (ranges, found), _ = shared_ranges((text, ""), words)
    assert found == bool(ranges)
    return ranges[0][:2] if ranges else None


@pytest.mark.parametrize(
    ("text", "words", "found"),
    [
        ("x MITRAL-\nvalve, Stenosis y", "mitral valve stenosis", "MITRAL-\nvalve, Stenosis"),
        ("ｆｕｌｌ ｗｉｄｔｈ text", "full width", "ｆｕｌｌ ｗｉｄｔｈ"),
        ("the ﬁrst Straße’s end", "first strasse", "ﬁrst Straße"),
        ("la maladie de Sje\u0301gren, de\u0301ja\u0300 vue", "sjégren déjà", "Sje\u0301gren, de\u0301ja\u0300"),
        ("患者，男性，45岁。", "患者 男性 45岁", "患者，男性，45岁"),
        ("主诉：患者男性咳嗽三天", "患 者 男 性 咳 嗽", "患者男性咳嗽"),
        ("ｶﾞｽ交換の評価", "ガス交換", "ｶﾞｽ交換"),
        ("\u1112\u1161\u11ab\u1100\u1173\u11af text", "한글 text", "\u1112\u1161\u11ab\u1100\u1173\u11af text"),
        ("a_b c", "a b", "a_b"),
        ("ab c", "a b", None),
        ("mitral valves", "mitral valve", None),
        ("", "a", None),
        ("a b", "", None),
    ],
)
def test_words_are_found_whatever_their_form(text: str, words: str, found: str | None) -> None:
    place = locate(text, words)
    assert (None if place is None else text[place[0] : place[1]]) == found


_WORDS = st.text(
    st.sampled_from("aB é\u0301ﬁ½ßIı.,-_\n患者ー\u30ab\u3099ﾞ한\u1112\u1161\u11ab9٣\u0345ª™ \u00a0"), max_size=40
)


@given(st.one_of(_WORDS, st.text(max_size=60)), st.data())
def test_every_run_of_a_texts_normalised_words_is_found_in_it(text: str, data: st.DataObject) -> None:
    words = normalise(text).split()
    if not words:
        assert locate(text, "a") is None
        return
    first = data.draw(st.integers(0, len(words) - 1))
    last = data.draw(st.integers(first + 1, len(words)))
    run = " ".join(words[first:last])
    place = locate(text, run)
    assert place is not None
    assert 0 <= place[0] < place[1] <= len(text)
    # One original character may stand for more than one word (½), so what is marked may hold more than the run.
    assert run.replace(" ", "") in normalise(text[place[0] : place[1]]).replace(" ", "")


@given(st.text(max_size=50), st.text(max_size=50), st.text("abc 患", max_size=30))
def test_marked_ranges_rise_and_never_overlap(before: str, after: str, shared: str) -> None:
    texts = (before + " " + shared, shared + " " + after)
    for text, (ranges, found) in zip(texts, shared_ranges(texts, normalise(shared)), strict=True):
        assert found == bool(normalise(shared))
        edges = [edge for start, end, _ in ranges for edge in (start, end)]
        assert edges == sorted(edges)
        assert all(0 <= start < end <= len(text) for start, end, _ in ranges)
        assert sum(mark == RUN for _, _, mark in ranges) == found


def test_other_runs_of_five_shared_words_are_marked_apart() -> None:
    one = "alpha beta gamma delta epsilon zeta. UNIQUE words here, then five more that both share"
    two = "Five more that both, share; but alpha beta gamma delta epsilon zeta"
    (first, _), (second, _) = shared_ranges((one, two), "alpha beta gamma delta epsilon zeta")
    assert [(one[a:b], mark) for a, b, mark in first] == [
        ("alpha beta gamma delta epsilon zeta", RUN),
        ("five more that both share", SHARED),
    ]
    assert [(two[a:b], mark) for a, b, mark in second] == [
        ("Five more that both, share", SHARED),
        ("alpha beta gamma delta epsilon zeta", RUN),
    ]


def test_a_character_that_holds_words_of_two_marks_is_marked_once() -> None:
    text = "q w e r ½ x y z v"  # normalised: q w e r 1 2 x y z v
    (ranges, _), _ = shared_ranges((text, text), "q w e r 1")
    assert [(text[start:end], mark) for start, end, mark in ranges] == [("q w e r ½", RUN), (" x y z v", SHARED)]


def test_no_character_is_parted_from_what_nfkc_joins_it_to() -> None:
    """Every pair that composes, in every compatibility form of its second half, is found as one word."""
    seconds = defaultdict(set)
    forms = defaultdict(set)
    for code in range(sys.maxunicode + 1):
        letter = chr(code)
        decomposed = unicodedata.normalize("NFD", letter)
        if len(decomposed) > 1 and unicodedata.normalize("NFC", decomposed) == letter:
            seconds[decomposed[-1]].add(unicodedata.normalize("NFC", decomposed[:-1]))
        forms[unicodedata.normalize("NFKC", letter)].add(letter)
    assert len(seconds) > 60
    checked = 0
    for second, firsts in seconds.items():
        for form in {second, *forms[second]}:
            text = f"{min(firsts)}{form}"
            if words := normalise(text).split():
                assert locate(f"x {text} y", " ".join(["x", *words, "y"])) == (0, len(text) + 4)
                checked += 1
    assert checked > 60


# ---- parts that do not belong together


def test_bad_input_is_one_clear_line(tmp_path: Path) -> None:
    rows = random_rows(40, seed=9)
    report = make_report(tmp_path, rows)
    with pytest.raises(UserError, match=r"pairs in the certificate, .* in the evidence; run the proof again"):
        render(replace(report, certificate=make_certificate(rows[1:])))
    with pytest.raises(UserError, match="the certificate has no coverage, after"):
        render(
            replace(report, certificate={k: v for k, v in report.certificate.items() if k not in ("coverage", "after")})
        )
    with pytest.raises(UserError, match="not among the certificate's totals"):
        render(replace(report, certificate={**report.certificate, "train_totals": []}))
    first, second = (
        report.pairs[0],
        next(p for p in report.pairs if p.train.sample_id != report.pairs[0].train.sample_id),
    )
    with pytest.raises(UserError, match="as the train side"):
        render(replace(report, pairs=[replace(first, train=second.train)]))
    bad = replace(first, train=replace(first.train, thumbnail=b"GIF89a"))
    with pytest.raises(UserError, match="its thumbnail is neither JPEG nor PNG; build"):
        render(replace(report, pairs=[bad]))
    with pytest.raises(ValueError, match="-1 pairs a cell"):
        choose_pairs(tmp_path / "evidence.parquet", -1)
    with pytest.raises(UserError, match="gone"):
        count_cells(tmp_path / "gone.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match=r"broken\.parquet: .*; write it again"):
        choose_pairs(tmp_path / "broken.parquet")
    pq.write_table(pa.table({"level": ["id"]}), tmp_path / "other.parquet")
    with pytest.raises(UserError, match="its columns are not those of evidence"):
        choose_pairs(tmp_path / "other.parquet")
    strange = write_evidence(tmp_path / "strange.parquet", [evidence_row(kind="psychic")])
    with pytest.raises(UserError, match="unknown kind or action near_text/psychic"):
        count_cells(strange)


def test_a_folder_name_with_wildcards_is_taken_literally(tmp_path: Path) -> None:
    folder = tmp_path / "a[1]*'"
    folder.mkdir()
    rows = random_rows(10, seed=10)
    assert len(choose_pairs(write_evidence(folder / "evidence.parquet", rows))) == 10
