"""`medgpt browse` over HTTP on loopback: who is answered, what is shown, what is hidden; and in a real browser."""

from __future__ import annotations

import base64
import html
import http.client
import io
import json
import re
import shutil
import socket
import stat
import threading
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest
from conftest import run_module, tree_digest
from eval_builds import build_demos
from PIL import Image

from browse.__main__ import main
from browse.catalogue import Asked, Catalogue
from browse.pages import Pages
from browse.server import Server
from manifests.prove import main as prove
from medgpt.errors import UserError
from shards.reader import Build

BUILDS = (("slake", ()), ("medquad", ()), ("gemex_thinkvg", ()), ("pmc_oa", ()))
OPEN, CREDENTIALED = ("medquad", "pmc_oa", "slake"), "gemex_thinkvg"
CHROMIUM = Path("/usr/bin/chromium")


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """What a reader sees, without marks."""
        main = self.body.decode().partition("<main>")[2]
        return html.unescape(re.sub(r"<[^>]*>", "", main))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Builds of pictures and texts, one credentialed, one filtered, with their proof, in a folder to be quoted."""
    folder = build_demos(tmp_path_factory.mktemp("browse") / "it's [1] *", BUILDS)
    assert prove([str(folder), "--benchmarks", "present", "--quiet", "--workers", "1"]) == 0
    (folder / "runs").mkdir()
    (folder / "runs" / "curves.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    )
    (folder / "runs" / "statistics.html").symlink_to("/etc/passwd")
    (folder / "runs" / "report.html").write_text('<title>t</title><script src="report.items/index.js"></script>')
    (folder / "runs" / "report.items").mkdir()
    (folder / "runs" / "report.items" / "index.js").write_text("document.title = self.origin;")
    return folder


@pytest.fixture(scope="module")
def server(data: Path) -> Iterator[Server]:
    before = tree_digest(data)
    with Server(Pages(Catalogue(data)), 0) as listening:
        listening.pages.catalogue.count()
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield listening
        listening.shutdown()
    assert tree_digest(data) == before, "a page wrote something"


def ask(
    server: Server, page: str = "", method: str = "GET", host: str | None = None, token: str | None = None
) -> Answer:
    """An answer to a request whose path is sent as it stands."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    path = f"/{server.token if token is None else token}/{page}"
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", f"127.0.0.1:{server.server_port}" if host is None else host)
    connection.endheaders()
    answer = connection.getresponse()
    found = Answer(answer.status, dict(answer.getheaders()), answer.read())
    connection.close()
    return found


def query(**values: str) -> str:
    return urllib.parse.urlencode(values)


def table(file: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.ParquetFile(file).read().to_pylist()
    return found


def rows(data: Path) -> list[dict[str, Any]]:
    return [row for part in sorted(data.glob("built/*/manifest/*.parquet")) for row in table(part)]


def ids_of(server: Server, **chosen: tuple[str, ...]) -> list[str]:
    """Every sample of a choice, page by page."""
    found: list[str] = []
    while True:
        page = server.pages.catalogue.page(Asked(chosen, start=len(found)), 13)
        if not page.rows:
            assert page.total == len(found)
            return found
        found += [row["sample_id"] for row in page.rows]


def test_only_who_has_the_token_and_names_the_address_is_answered(server: Server) -> None:
    port = server.server_port
    assert ask(server).status == 200 and ask(server, host=f"LOCALHOST:{port}").status == 200
    for token in ("", "x", server.token[:-1], server.token + "x", "%2e%2e"):
        refused = ask(server, token=token)
        assert refused.status == 403 and b"slake" not in refused.body
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", "localhost", f"127.0.0.1:{port + 1}", ""):
        assert ask(server, "samples", host=host).status == 421
    assert ask(server, method="POST").status == 501
    assert server.socket.getsockname()[0] == "127.0.0.1"
    headers = ask(server, "samples").headers
    assert headers["Cache-Control"] == "no-store" and headers["Referrer-Policy"] == "no-referrer"
    assert (
        headers["X-Content-Type-Options"] == "nosniff"
        and "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    )
    assert "Server" not in headers and "Date" not in headers
    for page in ("", "samples", "sql", f"sample?{query(build='slake', id='slake/train/1')}"):
        body = ask(server, page).body.decode()
        assert (
            "default-src 'none'" in body and "unsafe" not in body and not re.search(r'(src|href)="(https?:|//)', body)
        )


@pytest.mark.parametrize(
    "path",
    ["../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/x", "built/slake/build.json",
     "proof/../built/slake/build.json", "proof/certificate.json", "/etc/passwd", "runs/statistics.html",
     "proof/report.items/../../x.js", "x%00.html"],
)  # fmt: skip
def test_no_file_is_served_but_a_listed_report(server: Server, path: str) -> None:
    assert ask(server, f"report/{path}").status == 404
    assert ask(server, path).status == 404


def test_reports_are_linked_and_run_apart(server: Server, data: Path) -> None:
    home = ask(server).body.decode()
    for path in ("proof/report.html", "filtered/pmc_oa/gallery.html", "runs/curves.svg"):
        assert f'href="report/{path}"' in home
        report = ask(server, f"report/{path}")
        assert report.status == 200 and report.body == (data / path).read_bytes()
        assert report.headers["Content-Security-Policy"].startswith("sandbox allow-scripts;")


def test_counts_are_those_of_the_builds(server: Server, data: Path) -> None:
    records = [json.loads(path.read_bytes()) for path in data.glob("built/*/build.json")]
    home = ask(server)
    for record in records:
        name = record["build"].replace("_", "_<wbr>")
        [line] = re.findall(rf"<tr>\s*<td><a [^>]*><bdi>{name}</bdi>.*?</tr>", home.body.decode(), re.DOTALL)
        cells = re.findall(r'<td class="number">(.*?)</td>', line)
        numbers = [int(re.sub(r"<.*?>|\D", "", cell)) for cell in cells]
        pictures = sum(unit["images"] for unit in record["units"])
        assert numbers == [*(record["counts"][name] for name in ("read", "kept", "rejected")), pictures]
        assert "clean, incomplete" in line
    said = json.loads((data / "filtered" / "pmc_oa" / "waterfall.json").read_bytes())
    assert f"{said['kept']} of {said['read']} stay (medgpt_oss {said['recipe']['version']})" in home.text
    found, all_rows = server.pages.catalogue.facets(Asked()), rows(data)
    for name in ("build", "role", "split", "license", "stage", "task"):
        assert dict(found[name]) == Counter(row[name] for row in all_rows)
    assert dict(found["tokens"]) == Counter(str(row["text_tokens"].bit_length()) for row in all_rows)
    assert dict(found["tiles"]) == Counter(str(min(row["tiles"] or 0, 32)) for row in all_rows)
    assert dict(found["build"]) == {record["build"]: record["counts"]["kept"] for record in records}
    excluded = table(data / "proof" / "exclusions.parquet")
    selection = table(data / "filtered" / "pmc_oa" / "selection.parquet")
    dropped = {row["sample_id"]: row["reason"] for row in selection if not row["kept"]}
    states = Counter(f"filtered: {reason}" for reason in dropped.values())
    states += Counter(f"excluded: {row['reasons'][0]}" for row in excluded if row["train_sample"] not in dropped)
    states["stays"] = len(all_rows) - states.total()
    assert dict(found["state"]) == states and len(states) > 3


def test_pages_have_every_sample_of_a_choice_once(server: Server, data: Path) -> None:
    all_rows = rows(data)
    everything = ids_of(server)
    assert len(everything) == len(set(everything)) == len(all_rows)
    for chosen in (
        {"build": ("slake",), "role": ("eval",)},
        {"license": ("CC-BY-4.0",), "split": ("train",)},
        {"task": ("mcq", "qa")},
    ):
        expected = {row["sample_id"] for row in all_rows if all(row[name] in of for name, of in chosen.items())}
        assert expected and set(ids_of(server, **chosen)) == expected
    state = "filtered: misleading_numbers"
    shown = ask(server, f"samples?{query(state=state)}")
    assert shown.text.count(state) == 3 and "1 to 2 of 2 samples" in shown.text  # the facet, and both cards
    assert "from=48" in ask(server, "samples").body.decode()
    assert ask(server, "samples?from=999999999999&build=nobody&after=9.9&at=%00").status == 200


def test_a_sample_is_what_its_shard_holds(server: Server, data: Path) -> None:
    build = Build(data / "built" / "slake", role="train")
    for number in (0, 7):
        stored = build[number]
        page = ask(server, f"sample?{query(build='slake', id=stored.record['id'])}")
        pictures = [
            base64.b64decode(found) for found in re.findall(r'src="data:image/\w+;base64,([^"]+)"', page.body.decode())
        ]
        assert pictures == stored.images and "as built" in page.text
        texts = [part["text"] for message in stored.record["messages"] for part in message["content"] if part["text"]]
        assert texts and all(text in page.text for text in texts)
    excluded = next(row for row in table(data / "proof/exclusions.parquet") if row["train_build"] == "slake")
    page = ask(server, f"sample?{query(build='slake', id=excluded['train_sample'])}")
    assert f"taken out: {excluded['reasons'][0]}" in page.text
    pairs = [row for row in table(data / "proof/evidence.parquet") if row["train_sample"] == excluded["train_sample"]]
    assert pairs and all(
        row["eval_sample"] in page.text and f"{row['level']}/{row['kind']}" in page.text for row in pairs
    )
    dropped = ask(server, f"sample?{query(build='pmc_oa', id='pmc_oa/train/2')}")
    assert "misleading_numbers" in dropped.text
    assert (
        ask(server, f"sample?{query(build='slake', id='nobody')}").status == ask(server, "sample?at=99.1").status == 404
    )


def test_credentialed_pictures_and_texts_are_shown_to_who_asks(server: Server, data: Path) -> None:
    stored = Build(data / "built" / CREDENTIALED)[0]
    said = stored.record["question"]
    at = "{}.{}".format(*(server.pages.catalogue.locate(CREDENTIALED, stored.record["id"]) or ()))
    for page in (f"samples?build={CREDENTIALED}", f"sample?at={at}"):
        hidden, shown = ask(server, page), ask(server, f"{page}&reveal=1")
        assert said not in hidden.text and said in shown.text
        assert (b"main h2 { margin: 1.5rem 0 .25rem;" in hidden.body) == page.startswith("sample?")
        assert b"data:image" not in hidden.body
    blurred, clear = (
        Image.open(io.BytesIO(ask(server, f"thumbnail?at={at}{more}").body)) for more in ("", "&reveal=1")
    )
    assert max(blurred.size) <= 6 < max(clear.size)
    assert (
        "reveal=1" not in ask(server, "sql").body.decode() and "reveal=1" in ask(server, "sql?reveal=1").body.decode()
    )


def test_texts_and_names_are_found_wherever_they_stand(server: Server, data: Path) -> None:
    stored = [sample.record for name in (*OPEN, CREDENTIALED) for sample in Build(data / "built" / name)]

    def texts(record: dict[str, Any]) -> list[str]:
        parts = [part["text"] for message in record["messages"] for part in message["content"]]
        more = [message["reasoning"] for message in record["messages"]] + [record["question"], record["answer"]]
        return [text for text in (*parts, *more, *(option["text"] for option in record["options"] or [])) if text]

    for word in ("lung", "WHAT", "role", '"', "a\\b", "é", "no such word"):
        expected = {record["id"] for record in stored if any(word.lower() in text.lower() for text in texts(record))}
        asked = Asked(find=word)
        found: list[str] = []
        while True:
            page = server.pages.catalogue.page(asked, 9)
            found += [row["sample_id"] for row in page.rows]
            if page.after is None:
                break
            asked = Asked(find=word, after=page.after)
        assert len(found) == len(set(found)) and set(found) == expected, word
    names = server.pages.catalogue.page(Asked({"build": ("slake",)}, find="TRAIN/1", within="names"))
    assert {row["sample_id"] for row in names.rows} == {
        row["sample_id"] for row in rows(data) if row["sample_id"].startswith("slake/train/1")
    }


def test_sql_is_jailed_and_ends(server: Server, data: Path) -> None:
    counts = ask(server, f"sql?{query(q='SELECT build, count(*) AS n FROM samples GROUP BY ALL ORDER BY ALL')}")
    assert re.findall(r"slake\s*(\d+)", counts.text) == ["120"]
    linked = ask(server, f"sql?{query(q='FROM samples LIMIT 1')}").body.decode()
    assert "sample?build=" in linked and ask(server, "sql?q=FROM+range(300)").text.count("First") == 0
    assert "The first 200 rows" in ask(server, "sql?q=FROM+range(300)").text
    part = str(next((data / "built/slake/manifest").glob("*.parquet"))).replace("'", "''")
    shard = str(next((data / "built/slake/shards").glob("*.tar"))).replace("'", "''")
    for attack in (
        "FROM read_text('/etc/passwd')", f"FROM read_blob('{shard}')", "SELECT 1; SELECT 2",
        f"COPY (SELECT 1) TO '{part}'", "SET enable_external_access = true", "nonsense", "FROM cells",
    ):  # fmt: skip
        answer = ask(server, f"sql?{query(q=attack)}")
        assert 'role="alert"' in answer.body.decode() and "root:" not in answer.text
    catalogue = server.pages.catalogue
    here, other = socket.socketpair()
    other.close()
    with here, pytest.raises(UserError, match="stopped"):  # nobody waits for it
        catalogue.ask("SELECT count(*) FROM range(1000000000000)", here)


def test_exclusions_that_are_not_the_certified_ones_are_a_note_on_every_page(data: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(data, tmp_path / "copy", symlinks=True)
    assert Catalogue(copy).certificate is not None
    exclusions = copy / "proof/exclusions.parquet"
    pq.write_table(pq.read_table(exclusions).slice(0, 0), exclusions)
    catalogue = Catalogue(copy)
    assert catalogue.certificate is None
    assert any("exclusions.parquet: missing, or not the list of the certificate" in note for note in catalogue.notes)


def test_a_static_page_is_the_same_twice_and_withholds_credentialed_builds(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(data), "--export", str(tmp_path / "no")]) == 2
    assert CREDENTIALED in capsys.readouterr().err and not (tmp_path / "no").exists()
    named = [word for name in OPEN for word in ("--build", name)]
    assert main([str(data), "--export", str(tmp_path / "a"), "--samples", "20", *named]) == 0
    run_module("browse", str(data), "--export", str(tmp_path / "b"), "--samples", "20", *named, check=True)
    assert tree_digest(tmp_path / "a") == tree_digest(tmp_path / "b")
    text = (tmp_path / "a" / "index.html").read_text()
    assert str(data) not in text and "http://" not in text and len(text) < 3_000_000 and CREDENTIALED not in text
    assert text.count('class="card"') == 20 and "What modality is used to take this image?" in text
    assert main([str(data), "--export", str(tmp_path / "c"), "--build", CREDENTIALED, "--local-only"]) == 0
    assert stat.S_IMODE((tmp_path / "c" / "index.html").stat().st_mode) == 0o600
    assert main([str(data), "--export", str(tmp_path / "d"), "--build", "nobody"]) == 2


@pytest.mark.skipif(not CHROMIUM.exists(), reason="no Chromium at /usr/bin/chromium")
def test_in_a_browser(server: Server) -> None:
    """By keyboard, on a phone and in the dark; no page asks elsewhere, breaks its policy or shuts anyone out."""
    tools = pytest.importorskip("playwright.sync_api", reason="no playwright")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe-playwright-python").Axe()
    said: list[str] = []
    asked: list[str] = []
    with tools.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for width, scheme in ((1280, "light"), (390, "dark")):
            context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
            page = context.new_page()
            page.on("console", lambda message: said.append(f"{message.text} ({message.location['url']})"))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.on("request", lambda request: asked.append(request.url))

            def look(page: Any = page, width: int = width) -> None:
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                quiet = len(said)
                wrong = axe.run(page).response["violations"]
                del said[quiet:]  # its own doing
                assert [one["id"] for one in wrong if one["impact"] in ("serious", "critical")] == []

            page.goto(server.url)
            look()
            page.goto(server.url + "samples?build=slake")
            background = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (int(re.findall(r"\d+", background)[0]) < 128) == (scheme == "dark")
            page.keyboard.press("/")
            page.keyboard.type("pleural")
            page.keyboard.press("Enter")
            page.wait_for_url("**q=pleural**")
            look()
            page.locator("a.open").first.focus()
            page.keyboard.press("Enter")
            page.wait_for_selector("dialog[open] h1")
            first = page.inner_text("dialog h1")
            assert "pleural" in page.inner_text("dialog").lower()
            look()
            page.keyboard.press("ArrowRight")
            tools.expect(page.locator("dialog h1")).not_to_have_text(first)
            page.keyboard.press("Escape")
            page.wait_for_selector("dialog:not([open])", state="attached")
            assert page.evaluate("document.activeElement.className") == "open"
            page.goto(server.url + "sql?q=FROM+builds")
            look()
            page.goto(server.url + "report/runs/report.html")
            assert page.title() == "null"  # its data are loaded, its origin is none
            context.close()
        browser.close()
    assert {urllib.parse.urlsplit(url).netloc for url in asked if not url.startswith("data:")} == {
        f"127.0.0.1:{server.server_port}"
    }
    # What Chromium looks for by itself, without the token.
    assert [line for line in said if not line.endswith("/favicon.ico)")] == []
