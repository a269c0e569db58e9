"""`report --watch`: the page follows a run."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import ThreadingHTTPServer

import pytest

from lens_openrlhf.reporting import live, page
from lens_openrlhf.reporting.command import _warnings
from lens_openrlhf.reporting.runs import ReportError

from .conftest import words
from .generate import Trainer, write_config, write_run


@contextmanager
def watching(*argv):
    """Starts the command; its address and process."""
    process = subprocess.Popen(words("--watch", *argv), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert line.startswith("http://127.0.0.1:"), line + process.stderr.read()
        yield line.split()[0], process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@contextmanager
def serving(*paths, warnings=lambda runs: [], sample_steps=2):
    """The server in a thread: answer(path, state=None, host=None) -> status, headers, text."""
    shown = live.Live(paths, warnings, sample_steps)
    server = ThreadingHTTPServer((live.HOST, 0), live._handler(shown))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def answer(path: str, host: str | None = None):
        connection = HTTPConnection("127.0.0.1", server.server_port, timeout=60)
        named = f"127.0.0.1:{server.server_port}" if host is None else host.format(port=server.server_port)
        connection.request("GET", path, headers={"Host": named})
        response = connection.getresponse()
        found = response.status, dict(response.getheaders()), response.read().decode()
        connection.close()
        return found

    answer.port = server.server_port
    try:
        yield answer
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *(("localhost:{port}", 200), ("localhost", 200), ("LocalHost:9999", 200), ("127.0.0.1", 200)),
        *(("evil.example:{port}", 403), ("", 403), ("localhost.evil.example", 403), ("127.0.0.2:{port}", 403)),
    ],
)
def test_a_name_that_another_site_points_here_is_refused(tmp_path, host, status):
    with serving(tmp_path) as answer:
        found, _, text = answer("/data.json", host)
        assert found == status
        assert status == 200 or "this address is for 127.0.0.1 and localhost alone" in text


def test_data_is_sent_when_it_has_changed(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with serving(folder) as answer:
        assert "connect-src 'self'" in answer("/")[2]
        data = json.loads(answer("/data.json")[2])
        assert data["arms"][0]["runs"][0]["step"] == 0 and data["problems"] == []
        assert answer(f"/data.json?state={data['state']}")[0] == 204
        Trainer(folder, planned=4).step(1)
        status, _, text = answer(f"/data.json?state={data['state']}")
        (run,) = json.loads(text)["arms"][0]["runs"]
        assert status == 200 and run == {"name": "run", "seed": "1", "step": 1, "planned": 4}
        assert answer("/config.json")[0] == 404


def test_what_is_sent(tmp_path):
    write_config(tmp_path, **{"actor.model_name_or_path": "/models/é<b>"})
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    with serving(tmp_path, warnings=lambda runs: [f"{len(runs)} run"]) as answer:
        status, headers, text = answer("/data.json?state=0")
        data = json.loads(text)
        assert (status, headers["Content-Type"], headers["Cache-Control"]) == (200, "application/json", "no-store")
        assert int(headers["Content-Length"]) == len(text.encode()) and text == page.to_json(data)
        assert data["live"] is True and data["warnings"] == ["1 run"] and re.fullmatch(r"-?\d+", data["state"])
        status, headers, _ = answer(f"/data.json?state={data['state']}")
        assert status == 204 and "Content-Length" not in headers
        assert headers["Cache-Control"] == "no-store" and headers["Content-Type"] == "application/json"
        assert answer(f"/data.json?state=x&state={data['state']}")[0] == 200
        status, headers, text = answer(f"/?state={data['state']}")
        assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert text == page.page(data) and int(headers["Content-Length"]) == len(text.encode())
        with socket.create_connection(("127.0.0.1", int(answer.port))) as connection:
            request = f"GET /data.json?state={data['state']} HTTP/1.0\r\nHost: localhost\r\n\r\n"
            connection.sendall(request.encode())
            raw = connection.makefile("rb").read()
        assert raw.startswith(b"HTTP/1.0 204") and raw.endswith(b"\r\n\r\n"), "nothing comes after the head"
        for path in ("/data", "/data.json/", "/index.html", "/../data.json"):
            assert answer(path)[0] == 404


def test_a_fault_is_sent_as_such(tmp_path):
    def warnings(runs):
        raise ReportError("no \ud800")

    with serving(tmp_path, warnings=warnings) as answer:
        for path in ("/data.json", "/"):
            status, headers, text = answer(path)
            assert (status, headers["Content-Type"]) == (409, "application/json")
            assert json.loads(text) == {"error": "no \ud800"}


@pytest.mark.parametrize(
    "name",
    [
        *("metrics.jsonl", "config.json", "samples/step-000001.parquet", "compare.json"),
        *("runs/a/seed-1/eval.jsonl", "runs/a/seed-1/samples/step-000002.parquet"),
    ],
)
def test_a_change_of_any_file_is_seen(tmp_path, monkeypatch, name):
    made = []
    monkeypatch.setattr(page, "report_data", lambda runs, **more: made.append(more) or {"number": len(made)})
    other = tmp_path / "other"
    place = tmp_path / "folder"
    for folder in (other, place):
        folder.mkdir()
        (folder / "events.jsonl").touch()
    found = live.Live([other, place], lambda runs: [str(len(runs))], 5)
    state, data = found.data()
    assert data == {"number": 1, "state": state} and found.data() == (state, data)
    assert made == [{"sample_steps": 5, "warnings": ["2"], "live": True}]
    path = place / name
    path.parent.mkdir(parents=True, exist_ok=True)
    states = [state]
    for text, changed in (("{}", 10), ("{ }", 10), ("{ }", 11)):  # new, of another size, of another time
        path.write_text(text)
        os.utime(path, (changed, changed))
        state, data = found.data()
        states.append(state)
        assert data == {"number": len(states), "state": state} and found.data()[0] == state
    path.unlink()
    assert found.data()[0] == states[0] and len(set(states)) == 4 and len(made) == 5


def test_two_that_ask_at_once_have_it_made_once(tmp_path, monkeypatch):
    begun, again, go_on = threading.Event(), threading.Event(), threading.Event()

    def report_data(runs, **_):
        (again if begun.is_set() else begun).set()
        assert go_on.wait(60)
        return {}

    monkeypatch.setattr(page, "report_data", report_data)
    found = live.Live([tmp_path], lambda runs: [], 1)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(found.data)
        assert begun.wait(60)
        second = threads.submit(found.data)
        made_again = again.wait(0.2)
        go_on.set()
        assert not made_again and first.result() == second.result()


def test_a_file_that_goes_while_it_is_looked_at(tmp_path, monkeypatch):
    (tmp_path / "metrics.jsonl").touch()
    found = live.Live([tmp_path], lambda runs: [], 1)
    monkeypatch.setattr(found, "_files", lambda: [tmp_path / "metrics.jsonl", tmp_path / "gone.json"])
    assert found.data()[1]["arms"][0]["runs"][0]["step"] == 0


def test_it_ends_with_one_line(one_run):
    with watching(one_run) as (_, process):
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0 and out.strip() == "stopped; the runs go on"


def test_a_run_that_becomes_incomparable_is_told(one_run, tmp_path):
    other = write_run(tmp_path / "other", 1, 1)
    with serving(one_run, other, warnings=lambda runs: _warnings(runs, allow=False)) as answer:
        assert answer("/")[0] == 200
        config = (other / "config.json").read_text().replace("heldout.jsonl", "another.jsonl")
        (other / "config.json").write_text(config)
        status, _, text = answer("/data.json")
        assert status == 409 and "different evaluation data" in json.loads(text)["error"]


def test_a_port_that_is_taken_and_a_folder_that_is_not_there(command, one_run, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, _, err = command("--watch", one_run, "--port", port)
    assert status == 2 and f"--port {port}: cannot be used" in err
    status, _, err = command("--watch", tmp_path / "absent")
    assert status == 2 and "no such folder" in err


@pytest.mark.parametrize("chosen", [False, True])
def test_it_serves_until_it_is_interrupted(command, own_signals, one_run, monkeypatch, chosen):
    """In this process: what is printed, where it listens, and how it ends."""
    made = []
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1] if chosen else 0

    class Server(ThreadingHTTPServer):
        def __init__(self, address, handler):
            super().__init__(address, handler)
            made.append((address, self))

        def serve_forever(self):
            assert self.server_address[0] == "127.0.0.1"
            signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a shell's background job
    monkeypatch.setattr(live, "ThreadingHTTPServer", Server)
    status, out, err = command("--watch", one_run, *(("--port", port) if chosen else ()))
    ((address, server),) = made
    assert (status, err, address) == (0, "", ("127.0.0.1", port))
    assert out == (
        f"http://127.0.0.1:{server.server_port}/ shows {one_run}; Ctrl-C ends it\n\nstopped; the runs go on\n"
    )
    assert server.socket.fileno() == -1, "the port is free again"


def points(page, name: str) -> int:
    return page.evaluate(
        """name => document.querySelector(`[data-figure="${name}"] .plot`).data
        ?.find((trace) => typeof trace.meta === "number")?.x.length ?? 0""",
        name,
    )


def test_the_page_follows_a_run_and_keeps_its_place(open_page, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with watching(folder) as (address, process):
        page = open_page(address)
        assert page.locator("#waiting").inner_text() == "Waiting for the first step …"
        assert page.locator("#summary").is_hidden() and page.locator("#bar").is_hidden()
        trainer = Trainer(folder, planned=9)
        trainer.evaluate(0)
        trainer.step(1)
        page.get_by_text("live, step 1 of 9").wait_for()
        assert page.locator("#waiting").count() == 0
        page.locator('input[name="choice-k"][value="4"]').check(force=True)
        page.locator('input[name="choice-kind"][value="mixed"]').check(force=True)
        page.locator('[data-figure="reward"]').scroll_into_view_if_needed()
        page.wait_for_function("document.querySelector('[data-figure=\"reward\"] .plot').data?.length")
        card = page.locator('[data-figure="reward"]')
        before = card.bounding_box()["y"]
        assert points(page, "reward") == 1 and page.evaluate("window.scrollY") > 300
        trainer.step(2)
        trainer.evaluate(2)
        page.get_by_text("live, step 2 of 9").wait_for()
        assert points(page, "reward") == 2
        # Figures above it may grow with the second evaluation; what is looked at stays where it is.
        assert card.bounding_box()["y"] == pytest.approx(before, abs=1)
        assert page.locator('input[name="choice-k"]:checked').get_attribute("value") == "4"
        assert page.locator('input[name="choice-kind"]:checked').get_attribute("value") == "mixed"
        page.locator("#read-answers").click()
        assert page.locator("#panel-heading").inner_text() == "Answers of step 2"
        trainer.step(3)
        page.get_by_text("live, step 3 of 9").wait_for()
        assert page.locator("#panel-step option").all_inner_texts() == ["1", "2", "3"]
        assert page.locator("#panel-heading").inner_text() == "Answers of step 2"


def test_the_page_stays_when_the_server_ends(browser, one_run):
    with watching(one_run) as (address, process):
        page = browser.new_page()
        page.goto(address)
        page.get_by_text("live, step 12").wait_for()
        process.send_signal(signal.SIGINT)
        page.get_by_text("the server has ended").wait_for()
        assert page.locator("#summary-table tbody tr").count() == 1
        page.close()
