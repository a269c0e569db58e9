// Header, notices and tables.

function table(head, rows, caption) {
  return element(
    "table",
    {},
    caption ? element("caption", {}, caption) : null,
    element("thead", {}, element("tr", {}, ...head.map((cell) => element("th", { scope: "col" }, cell)))),
    element(
      "tbody",
      {},
      ...rows.map((row) =>
        element(
          "tr",
          {},
          ...row.map((cell, i) =>
            element(
              i ? "td" : "th",
              { ...(i === 0 && { scope: "row" }), "data-label": head[i] },
              element("span", {}, ...(Array.isArray(cell) ? cell : [cell])),
            ),
          ),
        ),
      ),
    ),
  );
}
const armCell = (arm) => [
  element("span", { class: "dot", style: `--arm-light:${colour(arm, "light")};--arm-dark:${colour(arm, "dark")}` }),
  data.arms[arm].label,
];
const soft = (text) => element("span", { class: "soft" }, text);
const meanCell = (cell) =>
  cell ? [percent(cell.mean, 2), known(cell.error) ? soft(` ± ${percent(cell.error, 2)}`) : null] : ["–"];

function renderHeader() {
  const labels = data.arms.map((arm) => arm.label);
  const joined = labels.join(" · ");
  byId("heading").textContent = joined && joined.length <= 60 ? joined : plural(labels.length, "arm");
  const facts = Object.fromEntries(data.facts);
  const runs = sum(data.arms.map((arm) => arm.runs.length));
  const parts = [`${plural(labels.length, "arm")}, ${plural(runs, "run")}`];
  if (facts.seeds) parts.push(`seed${facts.seeds.includes(",") ? "s" : ""} ${facts.seeds}`);
  parts.push(`${facts.steps} training steps`);
  byId("lead").textContent = `${parts.join("; ")}.`;
  byId("facts").replaceChildren(
    ...data.facts
      .filter(([name]) => !["seeds", "steps"].includes(name))
      .map(([name, value]) =>
        element(
          "div",
          { class: ["versions", "git commit"].includes(name) ? "small" : "" },
          element("dt", {}, name),
          element("dd", {}, value),
        ),
      ),
  );
  byId("colophon").textContent =
    `Made ${data.made} by lens_openrlhf ${data.version}. “The paper” is Feng et al. 2025, “Don’t Waste Mistakes”.`;
}

function renderNotices() {
  const list = (items, rest) => {
    const rows = items.map((item) => element("li", {}, ...item));
    return rest && rows.length > rest
      ? [
          element("ul", {}, ...rows.slice(0, rest)),
          element(
            "details",
            {},
            element("summary", {}, `${rows.length - rest} more`),
            element("ul", {}, ...rows.slice(rest)),
          ),
        ]
      : [element("ul", {}, ...rows)];
  };
  const boxes = [];
  const waiting = !lastStep() && !evaluation();
  document.body.classList.toggle("waiting", waiting);
  if (waiting)
    boxes.push(
      element(
        "div",
        { class: "notice", id: "waiting" },
        element(
          "p",
          {},
          data.live ? "Waiting for the first step …" : "No step and no evaluation has been recorded yet.",
        ),
      ),
    );
  if (data.warnings.length)
    boxes.push(element("div", { class: "notice warning", role: "note" }, ...list(data.warnings.map((w) => [w]))));
  if (data.problems.length)
    boxes.push(
      element(
        "div",
        { class: "notice problem", id: "problems" },
        element("p", {}, element("strong", {}, "Damaged or half-written"), ": what could be read is shown."),
        ...list(
          data.problems.map(({ where, what }) => [
            element("code", {}, where[0]),
            where.length > 1 ? ` and ${where.length - 1} more` : "",
            `: ${what}.`,
          ]),
          6,
        ),
      ),
    );
  if (data.missing.length && !waiting)
    boxes.push(
      element(
        "div",
        { class: "notice", id: "missing" },
        element("p", {}, element("strong", {}, "Not recorded")),
        ...list(data.missing.map((m) => [m])),
      ),
    );
  byId("notices").replaceChildren(...boxes);
}

function change(name, arm, show) {
  const ends = data.ends[name]?.[arm];
  return ends ? [show(ends[0]), soft(" → "), show(ends[1])] : ["–"];
}
function renderSummary() {
  const e = evaluation();
  const ks = e ? [...new Set([e.ks[0], e.ks.at(-1)])] : [];
  const compared = e && data.arms.length > 1;
  const head = [
    "Arm",
    "Runs",
    "Steps",
    ...ks.map((k) => `Pass@${k}`),
    ...(compared ? ks.map((k) => `Δ Pass@${k}`) : []),
    "Negative groups",
    "Rescued",
    "Seconds a step",
  ];
  const rows = data.arms.map((arm, i) => [
    armCell(i),
    String(arm.runs.length),
    [...new Set(arm.runs.map((run) => run.step))].join(", "),
    ...ks.map((k) => meanCell(e.table.all[k][i])),
    ...(compared ? ks.map((k) => differenceCell(e.difference.all[k][i], i)) : []),
    change("lens/negative_groups", i, ratio),
    change("lens/rescued_samples", i, ratio),
    data.ends["timing/step_total"]?.[i] ? data.ends["timing/step_total"][i][1].toPrecision(3) : "–",
  ]);
  byId("summary-table").replaceChildren(rows.length ? table(head, rows) : "");
  const notes = [];
  if (e) notes.push(`Pass@k in percent on held-out questions ${atStep()}, ± one standard error (${overText()}).`);
  if (compared) notes.push(`Δ: paired difference to ${data.arms[0].label}.`);
  notes.push("Negative groups and rescued answers: mean over the first and the last tenth of the steps.");
  byId("summary-note").textContent = rows.length ? notes.join(" ") : "";
}
function overText() {
  const single = data.arms.filter((arm) => arm.runs.length === 1).length;
  return single === 0
    ? "over seeds"
    : single === data.arms.length
      ? "over prompts, as there is one run an arm"
      : "over seeds; over prompts where an arm has one run";
}
function differenceCell(d, arm) {
  if (arm === 0) return [soft("baseline")];
  if (!d) return ["–"];
  return [signed(d.mean, 2), known(d.error) ? soft(` ± ${percent(d.error, 2)}`) : null];
}

function passRows() {
  const e = evaluation();
  return data.arms.map((_, arm) => e.ks.map((k) => e.table[state.split][k][arm]));
}
function renderTables() {
  const e = evaluation();
  document.querySelector("#pass > .card").hidden = !e;
  if (!e) return;
  const ks = e.ks.map((k) => `Pass@${k}`);
  const cells = passRows();
  const best = e.ks.map((_, i) => Math.max(...cells.map((row) => row[i]?.mean ?? -1)));
  const prompts = `${plural(chosenSplit().prompts, "prompt")}${promptsText()}`;
  byId("table-heading").textContent = `Pass@k ${atStep()}${promptsText()}`;
  const notes = [`Percent of ${prompts}: mean ± standard error (${overText()}).`];
  if (data.arms.length > 1) notes.push("Bold: the best arm.");
  if (e.left_out.length) notes.push(`Not evaluated ${atStep()}, and left out: ${e.left_out.join(", ")}.`);
  byId("table-note").textContent = notes.join(" ");
  byId("pass-table").replaceChildren(
    table(
      ["Arm", ...ks],
      cells.map((row, arm) => [
        armCell(arm),
        ...row.map((cell, i) =>
          cell && cell.mean === best[i] && data.arms.length > 1
            ? [element("strong", {}, percent(cell.mean, 2)), ...meanCell(cell).slice(1)]
            : meanCell(cell),
        ),
      ]),
    ),
  );
  const others = range(data.arms.length).slice(1);
  const difference = (k, arm) => e.difference[state.split][k][arm];
  for (const id of ["difference-heading", "difference-note", "difference-table"]) byId(id).hidden = !others.length;
  if (!others.length) return;
  byId("difference-heading").textContent = `Paired difference to ${data.arms[0].label}`;
  const over = new Set(others.flatMap((arm) => e.ks.map((k) => difference(k, arm)?.over)).filter(known));
  const pairs = over.has("seeds")
    ? "over seeds: both arms of a pair have the same seed; and in how many pairs the arm is ahead"
    : "over prompts, as there is one pair of runs: it speaks of these two models, not of other seeds";
  byId("difference-note").textContent = over.size
    ? `Percentage points ± standard error, 95% interval in brackets, ${pairs}. Bold: the interval leaves out 0.`
    : "No two runs of equal seed were evaluated on the same prompts, so there are no pairs.";
  byId("difference-table").replaceChildren(
    table(
      ["Arm", ...ks],
      others.map((arm) => [
        armCell(arm),
        ...e.ks.map((k) => {
          const d = difference(k, arm);
          if (!d) return ["–"];
          const sure = known(d.low) && (d.low > 0 || d.high < 0);
          return [
            element(sure ? "strong" : "span", {}, signed(d.mean, 2)),
            known(d.error) ? soft(` ± ${percent(d.error, 2)}`) : null,
            known(d.low)
              ? element("span", { class: "line soft" }, `[${signed(d.low, 2)}, ${signed(d.high, 2)}]`)
              : null,
            d.over === "seeds" ? element("span", { class: "line soft" }, `ahead in ${d.won} of ${d.pairs}`) : null,
          ];
        }),
      ]),
    ),
  );
}
byId("table-csv").addEventListener("click", () => {
  const e = evaluation();
  const rows = [
    [
      "prompts",
      "k",
      "arm",
      "mean",
      "standard_error",
      "runs",
      "difference",
      "difference_error",
      "low",
      "high",
      "pairs",
      "pairs_ahead",
      "pairs_over",
    ],
  ];
  for (const split of e.splits)
    for (const k of e.ks)
      data.arms.forEach((arm, i) => {
        const [cell, d] = [e.table[split.key][k][i], e.difference[split.key][k][i]];
        rows.push([
          split.key,
          k,
          arm.label,
          cell?.mean,
          cell?.error,
          cell?.n,
          d?.mean,
          d?.error,
          d?.low,
          d?.high,
          d?.pairs,
          d?.won,
          d?.over,
        ]);
      });
  saveRows("pass-at-k-tables", rows);
});

function renderOptions() {
  const { apart, common } = data.options;
  byId("options-note").textContent =
    apart.length && data.arms.length > 1
      ? "What tells the arms apart."
      : common.length
        ? ""
        : "No config.json could be read, so the options are not known.";
  const code = (name) => [element("code", {}, name)];
  const rows =
    data.arms.length > apart.length // the longer side downwards
      ? [
          ["Arm", ...apart.map(([name]) => name)],
          data.arms.map((_, arm) => [armCell(arm), ...apart.map(([, values]) => values[arm])]),
        ]
      : [["Option", ...data.arms.map((arm) => arm.label)], apart.map(([name, values]) => [code(name), ...values])];
  byId("options-table").replaceChildren(apart.length && data.arms.length > 1 ? table(...rows) : "");
  document.querySelector("#options details").hidden = !common.length;
  byId("common-table").replaceChildren(
    common.length
      ? table(
          ["Option", "Value"],
          common.map(([name, value]) => [code(name), value]),
        )
      : "",
  );
}
