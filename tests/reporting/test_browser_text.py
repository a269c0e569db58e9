"""What the page says in a real browser, cell by cell: tables, notes, panel, and what a curve tells under the mouse."""

from __future__ import annotations

import csv
import io
import json
import re
from decimal import ROUND_HALF_UP, Decimal

import pytest

from .generate import write_comparison, write_run
from .test_browser import click_point, download, figure, hover, make, traces

ARMS = {"grpo": ("none", 0.06), "lens": ("both", 0.3), "worse": ("negative", 0.0)}
STEPS = 12


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    """Three arms, one of which is worse than the first; one run lacks its last evaluation, and the steps after 8."""
    folder = write_comparison(tmp_path_factory.mktemp("uneven") / "c", 3, STEPS, arms=ARMS, every=4)
    short = folder / "runs/lens/seed-3"
    for name in ("metrics.jsonl", "eval.jsonl"):
        lines = (short / name).read_text().splitlines(keepends=True)
        (short / name).write_text("".join(line for line in lines if json.loads(line)["step"] <= 8))
    return make(tmp_path_factory.mktemp("page") / "report.html", folder, "--sample_steps", "3")


def data_of(page) -> dict:
    return json.loads(page.locator("#report-data").text_content())


def cells(page, table: str) -> list[list[str]]:
    """The texts of a table, its head first; lines of a cell are parted by a space."""
    return page.locator(f"{table} tr").evaluate_all(
        "rows => rows.map((row) => [...row.children].map((cell) => cell.innerText.trim().replace(/\\s+/g, ' ')))"
    )


def points(value: float, digits: int = 2) -> str:
    # As JavaScript rounds a half: away from zero.
    return str(Decimal(100 * value).quantize(Decimal(10) ** -digits, ROUND_HALF_UP))


def signed(value: float) -> str:
    text = points(abs(value))
    return text if float(text) == 0 else ("−" if value < 0 else "+") + text


def with_error(cell: dict | None, show=points) -> str:
    if cell is None:
        return "–"
    return show(cell["mean"]) + (f" ± {points(cell['error'])}" if cell["error"] is not None else "")


def shown(value: float) -> str:
    """A number as the page writes it, between 0.001 and a million."""
    return f"{float(f'{value:.4g}'):g}".replace("-", "−")


def test_the_summary(page):
    data = data_of(page)
    table, difference, ends = data["evaluation"]["table"]["all"], data["evaluation"]["difference"]["all"], data["ends"]

    def change(name, arm):
        first, last = ends[name][arm]
        return f"{points(first, 1)}% → {points(last, 1)}%"

    head, *rows = cells(page, "#summary-table")
    assert head == [
        *("Arm", "Runs", "Steps", "Pass@1", "Pass@16", "Δ Pass@1", "Δ Pass@16"),
        *("Negative groups", "Rescued", "Seconds a step"),
    ]
    assert rows == [
        [
            *(name, "3", "12, 8" if name == "lens" else "12"),
            *(with_error(table[k][arm]) for k in ("1", "16")),
            *(with_error(difference[k][arm], signed) if arm else "baseline" for k in ("1", "16")),
            *(change(f"lens/{what}", arm) for what in ("negative_groups", "rescued_samples")),
            f"{ends['timing/step_total'][arm][1]:#.3g}",
        ]
        for arm, name in enumerate(ARMS)
    ]
    signs = {row[5][0] for row in rows[1:]}
    assert signs == {"+", "−"}, "an arm above and one below the first"
    assert page.locator("#summary-note").inner_text() == (
        f"Pass@k in percent on held-out questions after step {data['evaluation']['step']}, ± one standard error "
        "(over seeds). Δ: paired difference to grpo. "
        "Negative groups and rescued answers: mean over the first and the last tenth of the steps."
    )


def test_the_tables_of_pass_at_k(page):
    evaluation = data_of(page)["evaluation"]
    ks = evaluation["ks"]
    for split, words in (("all", ""), ("level=2", ", level = 2")):
        page.locator("[data-control=split] select").select_option(split)
        prompts = next(s["prompts"] for s in evaluation["splits"] if s["key"] == split)
        table, difference = evaluation["table"][split], evaluation["difference"][split]
        head, *rows = cells(page, "#pass-table")
        assert head == ["Arm", *(f"Pass@{k}" for k in ks)]
        assert rows == [[name, *(with_error(table[str(k)][arm]) for k in ks)] for arm, name in enumerate(ARMS)]
        bold = [[with_error(table[str(k)][arm]).split(" ")[0] for k in ks
                 if table[str(k)][arm]["mean"] == max(cell["mean"] for cell in table[str(k)])]
                for arm in range(len(ARMS))]  # fmt: skip
        assert [
            page.locator(f"#pass-table tbody tr:nth-child({arm + 1}) strong").all_inner_texts()
            for arm in range(len(ARMS))
        ] == bold
        assert page.locator("#table-heading").inner_text() == f"Pass@k after step {evaluation['step']}{words}"
        note = page.locator("#table-note").inner_text()
        assert note.startswith(f"Percent of {prompts} prompts{words}: mean ± standard error (over seeds). Bold: ")
        head, *rows = cells(page, "#difference-table")
        expected, sure = [], []
        for arm, name in list(enumerate(ARMS))[1:]:
            own = [difference[str(k)][arm] for k in ks]
            expected.append([name, *(
                f"{with_error(d, signed)} [{signed(d['low'])}, {signed(d['high'])}] ahead in {d['won']} of {d['pairs']}"
                for d in own
            )])  # fmt: skip
            sure.append([signed(d["mean"]) for d in own if d["low"] > 0 or d["high"] < 0])
        assert rows == expected
        found = [page.locator(f"#difference-table tbody tr:nth-child({i}) strong").all_inner_texts() for i in (1, 2)]
        assert found == sure
        if split == "all":
            assert any(sure) and sum(map(len, sure)) < 2 * len(ks), "some intervals leave out 0, some do not"
    page.locator("[data-control=split] select").select_option("all")
    assert page.locator("#difference-heading").inner_text() == "Paired difference to grpo"
    assert "over seeds: both arms of a pair have the same seed" in page.locator("#difference-note").inner_text()


def test_the_tables_as_csv(page):
    evaluation = data_of(page)["evaluation"]
    with page.expect_download() as waiting:
        page.locator("#table-csv").click()
    rows = list(csv.DictReader(io.StringIO(waiting.value.path().read_text())))

    def row(split, k, arm, name):
        cell = evaluation["table"][split][str(k)][arm] or {}
        d = evaluation["difference"][split][str(k)][arm] or {}
        values = {
            **{"prompts": split, "k": k, "arm": name, "mean": cell.get("mean"), "standard_error": cell.get("error")},
            **{"runs": cell.get("n"), "difference": d.get("mean"), "difference_error": d.get("error")},
            **{"low": d.get("low"), "high": d.get("high"), "pairs": d.get("pairs"), "pairs_ahead": d.get("won")},
            "pairs_over": d.get("over"),
        }
        return {
            key: "" if value is None else value if isinstance(value, str) else float(value)
            for key, value in values.items()
        }

    def read(text):
        try:
            return float(text)
        except ValueError:
            return text

    assert [{key: read(value) for key, value in found.items()} for found in rows] == [
        row(split["key"], k, arm, name)
        for split in evaluation["splits"]
        for k in evaluation["ks"]
        for arm, name in enumerate(ARMS)
    ]


def test_header_and_options(page):
    data = data_of(page)
    assert page.locator("#heading").inner_text() == "grpo · lens · worse"
    assert page.locator("#lead").inner_text() == "3 arms, 9 runs; seeds 1, 2, 3; 8 to 12 of 12 training steps."
    facts = page.locator("#facts > div").evaluate_all(
        "all => all.map((e) => [...e.children].map((c) => c.textContent))"
    )
    assert facts == [fact for fact in data["facts"] if fact[0] not in ("seeds", "steps")] and len(facts) > 5
    assert cells(page, "#options-table") == [
        ["Arm", "algo.lens.scope"], *([name, scope] for name, (scope, _) in ARMS.items())
    ]  # fmt: skip
    page.locator("#options details summary").click()
    head, *rows = cells(page, "#common-table")
    assert head == ["Option", "Value"] and rows == data["options"]["common"] and len(rows) > 5


def test_a_curve_tells_how_many_runs_it_is_the_mean_of(page):
    curve = data_of(page)["curves"]["rollout/reward_mean"][1]
    at = curve["x"].index(STEPS)
    assert curve["n"][at] == 2
    text = hover(page, "reward", x=0.97)
    assert f"lens  {shown(curve['y'][at])} ± {shown(curve['e'][at])}  (2 of 3 runs)" in text
    assert text.count(" runs)") == 1, "the other arms have all of theirs"


def test_bands_are_one_standard_error_to_either_side(page):
    data = data_of(page)
    figure(page, "pass-over-training")
    bands = page.evaluate(
        """() => document.querySelector('[data-figure="pass-over-training"] .plot').data
        .filter((t) => t.meta === "band").map((t) => ({x: t.x, y: t.y}))"""
    )
    for curve, band in zip(data["evaluation"]["curves"]["all"]["1"], bands, strict=True):
        up = [y + e for y, e in zip(curve["y"], curve["e"], strict=True)]
        down = [y - e for y, e in zip(curve["y"], curve["e"], strict=True)]
        assert band["x"] == curve["x"] + curve["x"][::-1]
        assert band["y"] == pytest.approx(up + down[::-1])


def test_csv_of_a_figure_has_hidden_arms_and_what_was_logged(open_page, address):
    page = open_page(address)
    curves = data_of(page)["curves"]["rollout/reward_mean"]
    page.locator("[data-control=smooth] select").select_option("5")
    page.locator(".arm", has_text="worse").click()
    assert [trace["name"] for trace in traces(page, "reward")] == ["grpo", "lens"]
    assert traces(page, "reward")[0]["y"] != curves[0]["y"]
    _, text = download(page, "reward", "CSV")
    rows = list(csv.reader(io.StringIO(text.decode())))
    assert rows[0] == ["arm", "training_step", "value", "standard_error", "runs"]
    assert [(arm, *map(float, rest)) for arm, *rest in rows[1:]] == [
        (name, *values)
        for name, curve in zip(ARMS, curves, strict=True)
        for values in zip(*(curve[of] for of in ("x", "y", "e", "n")), strict=True)
    ]


def test_advantage_mass_is_drawn_in_percent(page):
    curves = data_of(page)["curves"]["mass/negative"]
    for trace, curve in zip(traces(page, "advantage-mass"), curves, strict=True):
        assert trace["y"] == [None if y is None else pytest.approx(100 * y) for y in curve["y"]]


def test_what_confidence_is_worth(page):
    data = data_of(page)
    for window in ("last", "all"):
        page.locator(f'input[name="choice-window"][value="{window}"]').check(force=True)
        entries = data["reliability"]["windows"][window]
        drawn = traces(page, "reliability")
        assert [trace["y"] for trace in drawn] == [e["y"] for e in entries] + [e["n"] for e in entries]
        told = ", ".join(f"{name} {e['auc']:.2f}" for name, e in zip(ARMS, entries, strict=True))
        under = page.locator('[data-figure="reliability"] .under').inner_text()
        assert under.endswith(f": {told} (0.50: confidence says nothing).")
        histograms = data["penalty"]["histograms"][window]
        for trace, entry in zip(traces(page, "penalty"), histograms, strict=True):
            assert trace["x"] == data["penalty"]["edges"]
            assert trace["y"] == pytest.approx([n / sum(entry["n"]) for n in entry["n"]] + [0])
        told = ", ".join(f"{name} {shown(e['mean_weight'])}" for name, e in zip(ARMS, histograms, strict=True))
        assert page.locator('[data-figure="penalty"] .under').inner_text() == f"Mean weight of a wrong answer: {told}."


def test_phases_stand_by_the_time_they_take(page):
    seconds = {name: values for name, values in data_of(page)["seconds"].items() if name != "timing/step_total"}
    longest = sorted(seconds, key=lambda name: -max(mean for mean, _ in seconds[name]))
    labels = [name.removeprefix("timing/").replace("_", " ") for name in longest]
    for arm, trace in enumerate(traces(page, "time")):
        assert (trace["y"], trace["x"]) == (labels, [seconds[name][arm][0] for name in longest])


def test_the_panel_keeps_the_run_of_the_arm_that_is_read(open_page, address):
    page = open_page(address)
    click_point(page, "reward", curve=2, point=STEPS - 1)
    chosen = page.locator("#panel-run option:checked")
    assert chosen.inner_text() == "worse, seed 1"
    page.locator("#panel-run").select_option(label="worse, seed 2")
    page.locator("#panel-before").click()
    assert page.locator("#panel-heading").inner_text() == "Answers of step 7"
    assert chosen.inner_text() == "worse, seed 2"
    page.locator("#panel-before").click()
    assert page.locator("#panel-heading").inner_text() == "Answers of step 1"
    assert page.locator("#panel-before").is_disabled() and page.locator("#panel-after").is_enabled()
    page.keyboard.press("Escape")
    click_point(page, "reward", curve=2, point=0)
    assert chosen.inner_text() == "worse, seed 2", "another step of the arm: the same run"
    page.keyboard.press("Escape")
    click_point(page, "reward", curve=0, point=0)
    assert chosen.inner_text() == "grpo, seed 1"


def test_an_answer_tells_what_it_got(open_page, address):
    page = open_page(address)
    page.locator("#read-answers").click()
    samples = data_of(page)["samples"][0]
    prompt = samples["texts"][str(STEPS)][0]
    answers = sorted(prompt["answers"], key=lambda a: -a["confidence"])
    right = sum(a["correctness"] == 1 for a in answers)
    card = page.locator("#panel .prompt").first
    badges = card.locator(".badges").inner_text()
    assert badges.startswith(f"{prompt['kind']} group {right} of {len(answers)} right")
    strongest = max(abs(a["advantage"]) for a in answers)
    told = card.locator("li").evaluate_all(
        """items => items.map((item) => { const bar = item.querySelector(".advantage i");
        return [item.className, item.querySelector("strong").textContent, bar.className,
                bar.style.getPropertyValue("--size"), item.textContent.includes("cut off")]; })"""
    )
    assert [(*t[:3], float(t[3]), t[4]) for t in told] == [
        (
            *(("right", "✓ right") if a["correctness"] == 1 else ("wrong", "✗ wrong")),
            "minus" if a["advantage"] < 0 else "plus",
            pytest.approx(abs(a["advantage"]) / strongest if strongest else 0),
            a["truncated"],
        )
        for a in answers
    ]


def test_one_run_speaks_of_itself_alone(open_page, one_run, tmp_path):
    page = open_page(make(tmp_path / "page.html", one_run))
    data = data_of(page)
    assert "Δ" not in page.locator("#summary-table").inner_text()
    assert "over prompts, as there is one run an arm" in page.locator("#summary-note").inner_text()
    assert page.locator("#difference-table").is_hidden() and page.locator("#pass-table strong").count() == 0
    lead = page.locator("#lead").inner_text()
    assert lead == f"1 arm, 1 run; seed 1; {STEPS} training steps."
    assert page.locator("#options-table").inner_text() == "" and data["options"]["common"]


@pytest.mark.parametrize(("steps", "smooth"), [(59, "1"), (60, "5"), (299, "5"), (300, "20")])
def test_long_runs_are_smoothed(open_page, tmp_path, steps, smooth):
    write_run(tmp_path / "run", 1, 1)
    metrics = tmp_path / "run/metrics.jsonl"
    record = json.loads(metrics.read_text())
    metrics.write_text("".join(json.dumps(record | {"step": 1 + i}) + "\n" for i in range(steps)))
    page = open_page(make(tmp_path / "page.html", tmp_path / "run"))
    assert page.locator("[data-control=smooth] select").input_value() == smooth


def test_numbers_are_written_alike(open_page, tmp_path):
    """Small and large ones with an exponent, others with four digits, and a true minus."""
    write_run(tmp_path / "run", 2, 2)
    metrics = tmp_path / "run/metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    values = {"a": 0.00012345, "b": 1234567.0, "c": -0.0123456, "d": 123456.0, "e": 0.0, "f": -0.001}
    metrics.write_text("".join(json.dumps(line | values) + "\n" for line in lines))
    page = open_page(make(tmp_path / "page.html", tmp_path / "run"))
    told = {}
    for name in values:
        page.locator("[data-control=metric] select").select_option(name)
        figure(page, "metric")
        told[name] = page.evaluate(
            """() => document.querySelector('[data-figure="metric"] .plot').data.at(-1).text[0]"""
        )
    written = {name: re.sub(r"<b>.*</b>  ", "", text) for name, text in told.items()}
    expected = {"a": "1.23e−4", "b": "1.23e+6", "c": "−0.01235", "d": "123500", "e": "0", "f": "−0.001"}
    assert written == expected
