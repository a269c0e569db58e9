"""The page in a real browser."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import struct
import time
from xml.etree import ElementTree

import pytest

from lens_openrlhf.reporting.command import main

from .conftest import EVERY, SEEDS, STEPS
from .generate import write_comparison, write_run

FIGURES = [
    *("pass-over-training", "pass-against-k", "pass-by-split", "group-share", "advantage-mass", "rescued", "reward"),
    *("confidence-curve", "reliability", "penalty", "length", "time", "metric"),
]
EVALUATIONS = STEPS // EVERY + 1


def make(path, *argv) -> str:
    assert main([*map(str, argv), "-o", str(path)]) == 0
    return path.as_uri()


@pytest.fixture(scope="module")
def address(comparison, tmp_path_factory) -> str:
    return make(tmp_path_factory.mktemp("page") / "report.html", comparison, "--sample_steps", "3")


def figure(page, name: str):
    """The card of a figure, drawn."""
    card = page.locator(f'[data-figure="{name}"]')
    card.scroll_into_view_if_needed()
    card.locator(".plot .main-svg").first.wait_for()
    return card


def traces(page, name: str) -> list[dict]:
    """Curves and bars of a figure, without bands and guides."""
    figure(page, name)
    return page.evaluate(
        """name => document.querySelector(`[data-figure="${name}"] .plot`).data
        .filter((trace) => typeof trace.meta === "number")
        .map((trace) => ({arm: trace.meta, x: [...trace.x], y: [...trace.y], name: trace.name, color:
            trace.marker?.color ?? trace.line.color, xaxis: trace.xaxis ?? "x"}))""",
        name,
    )


def hover(page, name: str, x: float = 0.5, y: float = 0.5) -> str:
    card = figure(page, name)
    box = card.locator(".plot .nsewdrag").first.bounding_box()
    page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
    card.locator(".hoverlayer text").first.wait_for()
    return card.locator(".hoverlayer").text_content()


def test_every_figure_is_drawn_without_a_complaint_or_a_request(open_page, address):
    page = open_page("about:blank")
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    for name in FIGURES:
        figure(page, name)
        assert page.locator(f'[data-figure="{name}"] h3').inner_text()
    assert {url for url in requests if not url.startswith("data:")} == {address}
    assert page.locator("#problems, #missing, .warning, .empty:not(:empty)").count() == 0


def test_figures_are_drawn_when_they_come_into_view(open_page, address):
    page = open_page(address)
    figure(page, "pass-over-training")
    assert page.locator('[data-figure="metric"] .main-svg').count() == 0
    figure(page, "metric")


def test_number_of_points(page):
    expected = {  # curves, and points of each
        "pass-over-training": (2, EVALUATIONS),
        "pass-against-k": (2, 5),
        "pass-by-split": (2 * 5, EVALUATIONS),
        "group-share": (2, STEPS),
        "advantage-mass": (2, STEPS),
        "rescued": (2, STEPS),
        "reward": (2, STEPS),
        "confidence-curve": (4, STEPS),
        "penalty": (2, 26),
        "length": (2, STEPS),
        "time": (2, 4),
    }
    for name, (curves, points) in expected.items():
        assert [len(trace["x"]) for trace in traces(page, name)] == [points] * curves, name


def test_one_evaluation_by_level_is_bars_with_errors(open_page, tmp_path):
    for seed in (1, 2):
        evaluations = write_run(tmp_path / f"seed-{seed}", STEPS, STEPS, seed=seed) / "eval.jsonl"
        evaluations.write_text(evaluations.read_text().splitlines()[-1] + "\n")
    page = open_page(make(tmp_path / "report.html", *tmp_path.glob("seed-*")))
    data = json.loads(page.locator("#report-data").text_content())["evaluation"]
    (bars,) = traces(page, "pass-by-split")
    column = [split for split in data["splits"] if split["column"] == "level"]
    assert bars["x"] == [str(split["value"]) for split in column] and len(column) > 1
    assert bars["y"] == [data["table"][split["key"]]["1"][0]["mean"] for split in column]
    errors = page.evaluate(
        """() => document.querySelector('[data-figure="pass-by-split"] .plot').data[0].error_y.array"""
    )
    assert errors == [data["table"][split["key"]]["1"][0]["error"] for split in column] and any(errors)


def test_an_arm_has_one_colour_everywhere(page):
    colours = {(trace["arm"], trace["color"]) for name in FIGURES for trace in traces(page, name)}
    assert {arm for arm, _ in colours} == {0, 1} and len(colours) == 2


def test_controls_choose_what_is_shown(open_page, address):
    page = open_page(address)
    data = json.loads(page.locator("#report-data").text_content())
    page.locator("[data-control=split] select").select_option("level=2")
    page.locator('input[name="choice-k"][value="8"]').check(force=True)
    expected = data["evaluation"]["curves"]["level=2"]["8"]
    assert [trace["y"] for trace in traces(page, "pass-over-training")] == [curve["y"] for curve in expected]
    assert "Pass@8" in page.locator('[data-figure="pass-over-training"] h3').inner_text()
    cell = data["evaluation"]["table"]["level=2"]["8"][1]
    row = page.locator("#pass-table tbody tr").nth(1)
    assert f"{100 * cell['mean']:.2f}" in row.inner_text()
    page.locator('input[name="choice-kind"][value="mixed"]').check(force=True)
    expected = data["curves"]["lens/mixed_groups"]
    assert [trace["y"] for trace in traces(page, "group-share")] == [curve["y"] for curve in expected]
    page.locator("[data-control=metric] select").select_option("policy_loss")
    assert [trace["y"] for trace in traces(page, "metric")] == [c["y"] for c in data["curves"]["policy_loss"]]
    page.locator("[data-control=smooth] select").select_option("5")
    smooth = traces(page, "metric")[0]["y"]
    values = data["curves"]["policy_loss"][0]["y"]
    assert smooth[5] == pytest.approx(sum(values[3:8]) / 5) and smooth[0] == pytest.approx(sum(values[:3]) / 3)


def test_arms_are_hidden_and_shown_by_keyboard(open_page, address):
    page = open_page(address)
    assert len(traces(page, "reward")) == 2
    button = page.locator(".arm", has_text="grpo")
    button.focus()
    page.keyboard.press("Enter")
    assert [trace["name"] for trace in traces(page, "reward")] == ["lens"]
    assert button.get_attribute("aria-pressed") == "false"
    page.keyboard.press("Enter")
    assert len(traces(page, "reward")) == 2


def test_hovering_shows_the_values_of_all_arms(page):
    data = json.loads(page.locator("#report-data").text_content())
    text = hover(page, "pass-over-training", x=0.65)
    step = int(re.match(r"training step (\d+)", text)[1])
    for arm, curve in zip(("grpo", "lens"), data["evaluation"]["curves"]["all"]["1"], strict=True):
        at = curve["x"].index(step)
        assert f"{arm}  {100 * curve['y'][at]:.1f}% ± {100 * curve['e'][at]:.1f}%" in text
    assert "w(0.5) = 0.3863" in hover(page, "penalty", x=0.5)
    assert re.search(r"confidence 0\.\d+: [\d.]+% right of [\d,]+ answers", hover_point(page, "reliability"))


def hover_point(page, name: str) -> str:
    """Hover over a marker."""
    card = figure(page, name)
    box = card.locator(".scatterlayer .point").nth(3).bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    card.locator(".hoverlayer text").first.wait_for()
    return card.locator(".hoverlayer").text_content()


def download(page, name: str, kind: str) -> tuple[str, bytes]:
    with page.expect_download() as waiting:
        page.locator(f'[data-figure="{name}"] [data-save="{kind}"]').click()
    return waiting.value.suggested_filename, waiting.value.path().read_bytes()


# Chromium drops the eleventh download of a page that asks for them in quick succession.
@pytest.mark.parametrize("names", [FIGURES[i : i + 3] for i in range(0, len(FIGURES), 3)], ids=" ".join)
def test_every_figure_can_be_saved(open_page, address, names):
    page = open_page(address, color_scheme="dark")
    for name in names:
        shown = traces(page, name)
        file, svg = download(page, name, "SVG")
        root = ElementTree.fromstring(svg)
        text = " ".join(root.itertext())
        assert file.endswith(".svg") and root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "grpo" in text and "lens" in text and page.locator(f'[data-figure="{name}"] h3').inner_text() in text
        file, png = download(page, name, "PNG")
        width, height = struct.unpack(">II", png[16:24])
        assert file.endswith(".png") and png[:8] == b"\x89PNG\r\n\x1a\n" and width == 1800 and height > 500
        file, text = download(page, name, "CSV")
        rows = list(csv.DictReader(io.StringIO(text.decode())))
        # The reliability diagram's second panel shows how the same answers are distributed.
        points = sum(len(t["x"]) for t in shown if not (name == "reliability" and t["xaxis"] == "x2"))
        assert file.endswith(".csv") and len(rows) == points and {row["arm"] for row in rows} == {"grpo", "lens"}


def test_csv_holds_the_values(page):
    data = json.loads(page.locator("#report-data").text_content())
    figure(page, "pass-by-split")
    _, text = download(page, "pass-by-split", "CSV")
    for row in csv.DictReader(io.StringIO(text.decode())):
        curve = data["evaluation"]["curves"][f"level={row['level']}"]["1"][["grpo", "lens"].index(row["arm"])]
        at = curve["x"].index(int(row["training step".replace(" ", "_")]))
        assert (float(row["value"]), float(row["standard_error"])) == (curve["y"][at], curve["e"][at])
        assert int(row["runs"]) == SEEDS
    with page.expect_download() as waiting:
        page.locator("#table-csv").click()
    rows = list(csv.DictReader(io.StringIO(waiting.value.path().read_text())))
    splits, ks = data["evaluation"]["splits"], data["evaluation"]["ks"]
    assert len(rows) == len(splits) * len(ks) * 2
    difference = data["evaluation"]["difference"]["all"]["1"][1]
    assert float(rows[1]["difference"]) == difference["mean"] and rows[0]["difference"] == ""


def click_point(page, name: str, curve: int, point: int) -> None:
    card = figure(page, name)
    box = card.locator(f".scatterlayer .trace:has(.point) >> nth={curve}").locator(".point").nth(point).bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    card.locator(".hoverlayer text").first.wait_for()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.locator("#panel").wait_for()


def test_a_click_opens_the_answers_of_that_step_and_arm(open_page, address, comparison):
    import pandas as pd

    page = open_page(address)
    click_point(page, "reward", curve=1, point=STEPS - 1)
    assert page.locator("#panel-heading").inner_text() == f"Answers of step {STEPS}"
    assert page.locator("#panel-run option:checked").inner_text() == "lens, seed 1"
    assert page.locator("#panel-note").is_hidden()
    frame = pd.read_parquet(comparison / f"runs/lens/seed-1/samples/step-{STEPS:06d}.parquet")
    frame = frame[frame.prompt_id == 0].sort_values("confidence", ascending=False)
    card = page.locator("#panel .prompt").first
    assert card.locator(".question").inner_text() == frame.prompt.iloc[0]
    assert f"{frame.kind.iloc[0]} group" in card.locator(".badges").inner_text()
    assert card.locator("li pre").all_inner_texts() == frame.response.to_list()
    told = card.locator("li .verdict").first.inner_text()
    row = frame.iloc[0]
    assert ("right" if row.correctness == 1 else "wrong") in told and f"tokens {row.tokens}" in told
    assert f"confidence {row.confidence:.4g}" in told and f"reward {row.reward:g}" in told
    assert float(re.search(r"advantage (\S+)", told)[1].replace("−", "-")) == pytest.approx(row.advantage, rel=1e-3)
    page.locator("#panel-run").select_option(label="grpo, seed 3")
    frame = pd.read_parquet(comparison / f"runs/grpo/seed-3/samples/step-{STEPS:06d}.parquet")
    assert card.locator(".question").inner_text() == frame.prompt.iloc[0]
    page.keyboard.press("Escape")
    assert page.locator("#panel").is_hidden()


def test_a_step_without_answers_leads_to_the_nearest(open_page, address):
    page = open_page(address)
    click_point(page, "pass-over-training", curve=0, point=2)
    note = page.locator("#panel-note").inner_text()
    assert note == f"The page has no answers of step {2 * EVERY}; these are of step 7, the nearest that has some."
    assert page.locator("#panel-heading").inner_text() == "Answers of step 7"
    page.locator("#panel-after").click()
    assert page.locator("#panel-heading").inner_text() == f"Answers of step {STEPS}"
    assert page.locator("#panel-after").is_disabled() and page.locator("#panel-note").is_hidden()


def test_answers_can_be_reached_by_keyboard(open_page, address):
    page = open_page(address)
    page.locator("#read-answers").focus()
    page.keyboard.press("Enter")
    page.locator("#panel .prompt").first.wait_for()
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "read-answers"


def test_on_a_touch_screen_the_answers_are_one_tap_further(open_page, address):
    page = open_page(address, 390, 844, has_touch=True, is_mobile=True)
    card = figure(page, "reward")
    box = card.locator(".plot .nsewdrag").first.bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    card.locator(".hoverlayer text").first.wait_for()
    assert page.locator("#panel").is_hidden()
    card.locator(".to-answers button").click()
    page.locator("#panel .prompt").first.wait_for()


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_nothing_is_wider_than_the_screen(open_page, address, width):
    page = open_page(address, width, 844)
    for name in FIGURES:
        figure(page, name)
    page.locator("#options details").click()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.locator("#read-answers").click()
    assert page.evaluate("document.documentElement.scrollWidth") == width


def looks(page, theme: str) -> tuple[str, ...]:
    # Asked for again and again: a headless page may have no frame, and so no change of its system's colours, by itself.
    end = time.monotonic() + 30
    while page.evaluate("document.documentElement.dataset.theme") != theme:
        assert time.monotonic() < end, f"the page does not become {theme}"
        page.wait_for_timeout(50)
    figure(page, "pass-over-training")
    return tuple(
        page.evaluate(
            """() => { const plot = document.querySelector('[data-figure="pass-over-training"] .plot');
            return [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,
                    plot.layout.font.color, plot.data.find((t) => typeof t.meta === "number").line.color]; }"""
        )
    )


def test_light_and_dark(open_page, address):
    light, dark = (looks(open_page(address, color_scheme=scheme), scheme) for scheme in ("light", "dark"))
    assert all(a != b for a, b in zip(light, dark, strict=True))
    page = open_page(address, color_scheme="light")
    assert looks(page, "light") == light
    page.emulate_media(color_scheme="dark")
    assert looks(page, "dark") == dark
    page.locator("#theme").click()
    assert page.locator("#theme").inner_text() == "Theme: light" and looks(page, "light") == light
    page.locator("#theme").click()
    assert page.locator("#theme").inner_text() == "Theme: dark" and looks(page, "dark") == dark
    page.reload()
    assert page.locator("#theme").inner_text() == "Theme: dark", "the choice is kept"


# Ends of elements, ends of lines in JavaScript alone, its templates, and marks that turn the writing direction.
HOSTILE = (
    '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 2"><b>bold</b> & <!-- '
    "\u2028window.hacked = 3\u2029 ${window.hacked = 4} `'\" \\u003c/script> \u202eevil \u2066\u200b \x1b]0;x\x07"
)


def test_text_of_a_run_is_shown_as_text(open_page, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    arms = {"<i>a": ("none", 0.1), "=b()\u202e": ("both", 0.1)}
    folder = write_comparison(tmp_path / "<script>window.hacked = 5;" / "comparison", 1, 2, arms=arms, every=1)
    for path in folder.rglob("step-*.parquet"):
        table = pq.read_table(path)
        for name in ("prompt", "response", "label"):
            hostile = pa.array([HOSTILE] * len(table))
            table = table.set_column(table.column_names.index(name), name, hostile)
        pq.write_table(table, path)
    for path in folder.rglob("eval.jsonl"):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        for record in records:
            values = ["<s>x" if i % 2 else HOSTILE for i in range(len(record["scores"]))]
            record["splits"] = {"<b>kind": values, "__proto__": values, "constructor": values}
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    page = open_page(make(tmp_path / "page.html", folder))
    for name in FIGURES:
        figure(page, name)
    split = figure(page, "pass-by-split")
    assert "<b>kind = <s>x" in split.text_content()
    assert "<i>a" in hover(page, "reward")
    page.locator("#read-answers").click()
    for place in ("#panel .question", "#panel li pre", "#panel .label code"):
        text = page.locator(place).first
        assert text.text_content() == HOSTILE
        # What comes after it on the page keeps its writing direction.
        assert text.evaluate("node => getComputedStyle(node).unicodeBidi") == "isolate"
    assert page.locator("h1").inner_text() == "<i>a · =b()\u202e"
    page.locator("#panel-close").click()
    _, text = download(page, "reward", "CSV")
    found = {row["arm"] for row in csv.DictReader(io.StringIO(text.decode()))}
    assert found == {"<i>a", "'=b()\u202e"}, "a spreadsheet must not take a text for a formula"
    assert page.evaluate("window.hacked") is None and page.locator("img").count() == 0


def test_damage_is_named_and_the_rest_is_shown(open_page, run, tmp_path):
    (run / "config.json").unlink()
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 13, "rew')
    (run / "samples/step-000003.parquet").write_bytes(b"no parquet")
    page = open_page(make(tmp_path / "page.html", run))
    told = page.locator("#problems").inner_text()
    for file, problem in (
        ("config.json", "is missing"),
        ("metrics.jsonl, line 13", "the last line is cut off"),
        ("samples/step-000003.parquet", "cannot be read as parquet"),
    ):
        assert re.search(f"{re.escape(str(run / file))}: {problem}", told)
    assert len(traces(page, "reward")[0]["x"]) == STEPS
    assert sum(traces(page, "penalty")[0]["y"]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("removed", "told", "empty", "shown"),
    [
        (["eval.jsonl"], "No evaluation in eval.jsonl", "pass-over-training", "reward"),
        (["metrics.jsonl", "samples"], "No metrics.jsonl with steps", "reward", "pass-over-training"),
        (["samples"], "No samples/", "reliability", "reward"),
    ],
)
def test_what_is_missing_is_named_and_the_rest_is_shown(open_page, run, tmp_path, removed, told, empty, shown):
    for name in removed:
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = open_page(make(tmp_path / "page.html", run))
    assert told in page.locator("#missing").inner_text()
    card = page.locator(f'[data-figure="{empty}"]')
    card.scroll_into_view_if_needed()
    card.locator(".empty:not(:empty)").wait_for()
    assert card.locator(".empty").inner_text().startswith("Nothing to show: ")
    assert card.locator('[data-save="CSV"]').is_disabled()
    assert len(traces(page, shown)) == 1


def test_a_warning_of_different_data(open_page, one_run, tmp_path):
    write_run(tmp_path / "other", 1, 1, heldout=10)
    page = open_page(make(tmp_path / "page.html", one_run, tmp_path / "other", "--allow_different_data"))
    assert "Different evaluation data" in page.locator(".notice.warning").inner_text()


def test_a_run_of_one_step(open_page, tmp_path):
    write_run(tmp_path / "run", 1, 1)
    page = open_page(make(tmp_path / "page.html", tmp_path / "run"))
    for name in FIGURES:
        figure(page, name)
    assert [trace["x"] for trace in traces(page, "reward")] == [[1]]


def test_many_arms_are_told_apart(open_page, one_run, tmp_path):
    folders = []
    for number in range(12):
        folders.append(shutil.copytree(one_run, tmp_path / f"run-{number}"))
        config = json.loads((folders[-1] / "config.json").read_text())
        config["options"]["algo.lens.alpha"] = number / 4
        (folders[-1] / "config.json").write_text(json.dumps(config))
    page = open_page(make(tmp_path / "page.html", *folders))
    figure(page, "reward")
    styles = page.evaluate(
        """() => document.querySelector('[data-figure="reward"] .plot').data
        .filter((t) => typeof t.meta === "number").map((t) => t.line.color + t.line.dash)"""
    )
    assert len(set(styles)) == 12
    assert page.locator(".arm").first.inner_text() == "alpha=0.0"
