"""`report --watch`: the page follows a run."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from contextlib import contextmanager
from http.client import HTTPConnection

import pytest

from .conftest import words
from .generate import Trainer, write_run


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


def get(address: str) -> tuple[int, bytes]:
    with urllib.request.urlopen(address) as answer:
        return answer.status, answer.read()


def test_data_is_sent_when_it_has_changed(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with watching(folder) as (address, process):
        status, text = get(address)
        assert status == 200 and b"connect-src 'self'" in text
        data = json.loads(get(address + "data.json")[1])
        assert data["arms"][0]["runs"][0]["step"] == 0 and data["problems"] == []
        assert get(f"{address}data.json?state={data['state']}") == (204, b"")
        trainer = Trainer(folder, planned=4)
        trainer.step(1)
        status, text = get(f"{address}data.json?state={data['state']}")
        fresh = json.loads(text)
        assert status == 200 and fresh["arms"][0]["runs"][0] == {"name": "run", "seed": "1", "step": 1, "planned": 4}
        with pytest.raises(urllib.error.HTTPError) as error:
            get(address + "config.json")
        assert error.value.code == 404


def test_a_name_that_another_site_points_here_is_refused(one_run):
    hosts = {"localhost:{port}": 200, "localhost": 200, "localhost:9999": 200, "evil.example:{port}": 403, "": 403}
    with watching(one_run) as (address, _):
        port = address.rstrip("/").rpartition(":")[2]
        for host, status in hosts.items():
            connection = HTTPConnection("127.0.0.1", int(port))
            connection.request("GET", "/data.json", headers={"Host": host.format(port=port)})
            assert connection.getresponse().status == status, host
            connection.close()


def test_it_ends_with_one_line(one_run):
    with watching(one_run) as (_, process):
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0 and out.strip() == "stopped; the runs go on"


def test_a_run_that_becomes_incomparable_is_told(one_run, tmp_path):
    other = write_run(tmp_path / "other", 1, 1)
    with watching(one_run, other) as (address, _):
        assert get(address)[0] == 200
        config = (other / "config.json").read_text().replace("heldout.jsonl", "another.jsonl")
        (other / "config.json").write_text(config)
        with pytest.raises(urllib.error.HTTPError) as error:
            get(address + "data.json")
        assert error.value.code == 409 and "different evaluation data" in json.loads(error.value.read())["error"]


def test_a_port_that_is_taken_and_a_folder_that_is_not_there(command, one_run, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, _, err = command("--watch", one_run, "--port", port)
    assert status == 2 and f"--port {port}: cannot be used" in err
    status, _, err = command("--watch", tmp_path / "absent")
    assert status == 2 and "no such folder" in err


def test_a_port_of_ones_own(one_run):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with watching(one_run, "--port", port) as (address, _):
        assert address == f"http://127.0.0.1:{port}/"


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
