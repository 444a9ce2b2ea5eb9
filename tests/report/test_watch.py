"""A run is watched from this machine alone: its report as it is now, read on where it was read."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers.synthetic_run import STAGES, results, write_json, write_jsonl, write_metrics, write_run
from playwright.sync_api import Browser

from specs_lightning.errors import SpecsError
from specs_lightning.report import watch as module
from specs_lightning.report.watch import Watched, listening, state_of, watch


@contextmanager
def watching(folder: Path) -> Iterator[int]:
    """The port of a server of the run."""
    with listening(folder, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def ask(port: int, path: str, host: str | None = None, method: str = "GET") -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, headers={"Host": f"127.0.0.1:{port}" if host is None else host})
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), dict(answer.headers)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A run that has only been begun, whose page is quickly written."""
    write_json(tmp_path / "run.json", {"name": "small", "stages": ["base", "final"]})
    return tmp_path


def half_done(folder: Path) -> Path:
    """A run that was stopped, or goes on, in its cold start."""
    write_run(folder)
    write_json(
        folder / "run.json", {"name": "toy-specs", "seed": 7, "started": "2026-03-02T09:12:44", "stages": STAGES}
    )
    found = results()
    write_json(folder / "results.json", found | {"models": found["models"][:2]})
    record = json.loads((folder / "cold_start" / "stage.json").read_text())
    write_json(folder / "cold_start" / "stage.json", record | {"status": "running", "seconds": None})
    now = {"title": "[4/6] cold_start", "done": 12, "total": 40, "at": "2026-03-02T09:31:00", "seconds_left": 75.0}
    write_json(folder / "cold_start" / "progress.json", now)
    for name in ("answer_samples.jsonl", "samples.jsonl"):
        (folder / "cold_start" / name).unlink()
    for stage in ("sft", "final"):
        for file in (folder / stage).iterdir():
            file.unlink()
    return folder


@pytest.mark.parametrize("host", ["evil.com", "evil.com:80", "127.0.0.1.nip.io", "localhost.evil.com", "10.0.0.7", ""])
def test_a_name_that_is_not_this_machines_gets_no_answer(small: Path, host: str) -> None:
    with watching(small) as port:
        for path in ("/", "/mark", "/report.html", "/watch.js", "/nothing"):
            status, said, _ = ask(port, path, host)
            assert status == 403 and "this server is not called" in said and "small" not in said


def test_it_listens_on_this_machine_alone_and_answers_to_its_names(small: Path) -> None:
    with listening(small, 0) as server:
        assert server.server_address[0] == "127.0.0.1"
    with watching(small) as port:
        for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
            assert ask(port, "/mark", host)[0] == 200


def test_there_is_nothing_else_to_ask_for_and_nothing_to_do(small: Path) -> None:
    with watching(small) as port:
        for path in ("/run.json", "/../run.json", "/report.html/..", "/%2e%2e/etc/passwd", "/?x"):
            assert ask(port, path)[0] == 404
        assert ask(port, "/", method="POST")[0] == 501


def test_scripts_run_in_the_shell_alone_and_no_other_page_may_frame_or_read_it(small: Path) -> None:
    with watching(small) as port:
        ask(port, "/mark")
        _, shell, headers = ask(port, "/")
        assert "script-src 'self'" in headers["Content-Security-Policy"] and "<script src=" in shell
        _, report, of_report = ask(port, "/report.html")
        assert "default-src 'none'" in report and "<script" not in report
        for found in (headers, of_report):
            assert found["X-Frame-Options"] == "SAMEORIGIN" and found["Cache-Control"] == "no-store"
            assert found["Cross-Origin-Resource-Policy"] == "same-origin"


def test_the_report_is_written_anew_when_there_is_something_new_and_nothing_is_left_in_the_folder(small: Path) -> None:
    before = sorted(small.rglob("*"))
    watched = Watched(small)
    watched.renew()
    first, (kind, page) = watched.mark, watched.answer
    assert kind == "text/html" and "final (not run)" in page and sorted(small.rglob("*")) == before
    watched._not_before = 0.0
    watched.renew()
    assert watched.mark == first
    write_metrics(small / "final" / "metrics.csv", [{"step": 0, "train/loss": 1.0}])
    watched.renew()
    assert watched.mark != first and "<figcaption>Loss</figcaption>" in watched.answer[1]


def test_writing_it_takes_a_tenth_of_the_time_at_most(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def slow(folder: Path) -> str:
        nonlocal now
        now += 2.0
        return "page"

    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    monkeypatch.setattr(module.time, "thread_time", lambda: now)
    monkeypatch.setattr(module, "report_page", slow)
    watched = Watched(small)
    written = []
    while now < 100:
        write_json(small / "results.json", now)
        before = now
        watched.renew()
        written += [before] if now > before else []
        now += 1.0
    assert written == [0.0, 22.0, 44.0, 66.0, 88.0]


def test_a_damaged_file_is_told_in_place_of_the_report_until_it_is_whole_again(small: Path) -> None:
    watched = Watched(small)
    (small / "results.json").write_text("{")
    watched.renew()
    assert watched.answer[0] == "text/plain" and "results.json is damaged" in watched.answer[1]
    (small / "results.json").unlink()
    watched._not_before = 0.0
    watched.renew()
    assert watched.answer[0] == "text/html"


def test_a_file_that_goes_while_it_is_looked_at_is_no_error(small: Path) -> None:
    (small / "dangling").symlink_to(small / "nowhere")
    assert state_of(small) == state_of(small)


def test_a_taken_port_and_a_folder_of_no_run_are_said_in_a_sentence(small: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(SpecsError, match="choose another --port"):
        watch(small, other.getsockname()[1])
    with pytest.raises(SpecsError, match="give the folder that `specs run` wrote"):
        watch(small / "nowhere")


def test_a_run_that_goes_on_is_followed_without_losing_ones_place(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LARGEST_SHARE", 10.0)
    folder = half_done(tmp_path)
    with watching(folder) as port:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(120_000)
        noticed: list[str] = []
        page.on("console", lambda message: noticed.append(message.text))
        page.goto(f"http://127.0.0.1:{port}/")
        report = page.frame_locator("iframe:not(.coming)")
        report.locator(".now").wait_for()
        told = report.locator(".now").inner_text()
        assert "[4/6] cold_start: 12 of 40, about 75 s left" in told
        assert report.locator("table.results").first.locator("tbody th").all_inner_texts() == ["base", "zero"]
        page.evaluate(
            "() => {"
            "  const inner = document.querySelector('iframe').contentDocument;"
            "  inner.querySelectorAll('#samples details').forEach(one => one.open = true);"
            "  inner.querySelector('#samples article:nth-of-type(3)').scrollIntoView();"
            "  document.querySelector('iframe').dataset.old = 'yes'}"
        )
        where = (
            "(() => {const inner = document.querySelector('iframe:not(.coming)').contentDocument;"
            "return [inner.querySelector('#samples article:nth-of-type(3)').getBoundingClientRect().top,"
            " [...inner.querySelectorAll('#samples details')].map(one => one.open)]})()"
        )
        before = page.evaluate(where)
        sample = json.loads((folder / "zero" / "answer_samples.jsonl").read_text().splitlines()[0])
        write_jsonl(folder / "cold_start" / "answer_samples.jsonl", [sample])
        now = {"title": "[4/6] cold_start: evaluation", "done": 1, "total": 9, "at": "2026-03-02T09:40:00"}
        write_json(folder / "cold_start" / "progress.json", now)
        page.locator("iframe:not([data-old])").wait_for()
        report.get_by_text("[4/6] cold_start: evaluation: 1 of 9").wait_for()
        after = page.evaluate(where)
        assert after[0] == pytest.approx(before[0], abs=2)
        assert after[1][:2] == before[1] == [True, True] and len(after[1]) == 3
        assert page.title() == "toy-specs · SPECS run" and noticed == []
        assert not page.locator("#said").is_visible()
    page.get_by_text("`specs watch` has ended").wait_for()
    page.close()
