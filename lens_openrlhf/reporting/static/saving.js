// Figures saved as SVG and PNG, their data as CSV.

function save(name, url) {
  const link = element("a", { href: url, download: name.replace(/[^\w.=-]+/g, "-") });
  document.body.append(link);
  link.click();
  link.remove();
}
async function saveImage(id, format) {
  const { spec, traces, layout } = build(id, { look: "light", forFile: true });
  const url = await Plotly.toImage(
    { data: traces, layout, config: CONFIG },
    { format, width: layout.width, height: layout.height, scale: format === "png" ? 2 : 1 },
  );
  save(`${spec.file}.${format}`, url);
}
/** Spreadsheets take a text that begins with one of =+-@ for a formula, unless there is an apostrophe before it. */
function csvCell(value) {
  if (!known(value)) return "";
  const text = typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value);
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
function saveRows(name, rows) {
  const url = URL.createObjectURL(
    new Blob([rows.map((row) => row.map(csvCell).join(",") + "\n").join("")], { type: "text/csv" }),
  );
  save(`${name}.csv`, url);
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}
/** All arms' values, hidden ones too, before smoothing. */
function csvRows(spec) {
  const split = spec.panels.some((p) => p.key);
  const series = spec.series.filter((s) => !s.silentCsv);
  const what = series.some((s) => s.what),
    counted = series.some((s) => s.count),
    errors = series.some((s) => s.e),
    runs = series.some((s) => s.n);
  const [x, y] = spec.header ?? [spec.panels[0].x?.title.replaceAll(" ", "_") ?? "x", "value"];
  const rows = [
    [
      "arm",
      ...(split ? [state.column] : []),
      ...(what ? ["answers"] : []),
      x,
      y,
      ...(errors ? ["standard_error"] : []),
      ...(runs ? ["runs"] : []),
      ...(counted ? ["count"] : []),
    ],
  ];
  for (const s of series) {
    const values = s.raw ?? s;
    (s.at ?? s.x).forEach((at, i) =>
      rows.push([
        data.arms[s.arm].label,
        ...(split ? [spec.panels[s.panel].key] : []),
        ...(what ? [s.what] : []),
        at,
        values.y[i],
        ...(errors ? [values.e?.[i]] : []),
        ...(runs ? [values.n?.[i]] : []),
        ...(counted ? [s.count?.[i]] : []),
      ]),
    );
  }
  return rows;
}

function prepareCards() {
  for (const card of document.querySelectorAll("[data-figure]")) {
    const id = card.dataset.figure;
    const button = (label, name, action) =>
      element(
        "button",
        { type: "button", "data-save": label, "aria-label": `${name}, as ${label}`, onclick: action },
        label,
      );
    card.append(
      element("div", { class: "plot", role: "img" }),
      element("p", { class: "empty" }),
      element("p", { class: "under" }),
      element(
        "div",
        { class: "actions" },
        element("span", { class: "to-answers" }),
        button("SVG", "Save the figure", () => saveImage(id, "svg")),
        button("PNG", "Save the figure", () => saveImage(id, "png")),
        button("CSV", "Save the data", () => {
          const spec = FIGURES[id]();
          saveRows(spec.file, csvRows(spec));
        }),
      ),
    );
  }
}
