// Controls of the figures, and the arms as the legend of all of them.

const SPLIT_LABEL = (split) => (split.column === null ? "all prompts" : `${split.column} = ${split.value}`);
const evaluation = () => data.evaluation;
const columns = () =>
  evaluation()
    ? [
        ...new Set(
          evaluation()
            .splits.map((s) => s.column)
            .filter(known),
        ),
      ]
    : [];
const lastStep = () => Math.max(0, ...data.arms.flatMap((arm) => arm.runs.map((run) => run.step)));
const WINDOWS = { all: "all of training", first: "first third", last: "last third" };
const LENGTHS = {
  "rollout/response_length_mean": "training, tokens",
  "evaluation/length": "held-out, tokens",
  "rollout/truncated_rate": "training, cut off",
  "evaluation/truncated": "held-out, cut off",
};
const CONTROLS = {
  k: { label: "k", options: () => (evaluation()?.ks ?? []).map((k) => [String(k), String(k)]) },
  split: {
    label: "Prompts",
    list: true,
    options: () => (evaluation()?.splits ?? []).map((s) => [s.key, SPLIT_LABEL(s)]),
  },
  column: { label: "Split by", options: () => columns().map((c) => [c, c]) },
  kind: { label: "Groups", options: () => ["negative", "mixed", "positive"].map((v) => [v, v]) },
  window: { label: "Answers of", options: () => Object.keys(data.penalty.histograms).map((w) => [w, WINDOWS[w]]) },
  length: { label: "Show", list: true, options: () => Object.entries(LENGTHS).filter(([name]) => data.curves[name]) },
  metric: {
    label: "Metric",
    list: true,
    first: () => data.curves.policy_loss && "policy_loss",
    options: () =>
      Object.keys(data.curves)
        .filter((name) => !/^(mass|evaluation)\//.test(name))
        .map((v) => [v, v]),
  },
  smooth: {
    label: "Smoothing",
    list: true,
    first: () => String(lastStep() >= 300 ? 20 : lastStep() >= 60 ? 5 : 1),
    options: () => [1, 5, 20, 50].map((v) => [String(v), v === 1 ? "no smoothing" : `mean of ${v} steps`]),
  },
};

function renderControls() {
  for (const place of document.querySelectorAll("[data-control]")) {
    const name = place.dataset.control;
    const control = CONTROLS[name];
    const options = control.options();
    if (!options.some(([value]) => value === state[name])) state[name] = control.first?.() || options[0]?.[0] || null;
    const key = JSON.stringify(options);
    if (place.dataset.options === key) continue; // untouched, so that it keeps the focus
    place.dataset.options = key;
    place.replaceChildren();
    if (options.length < 2) continue;
    const choose = (value) => {
      state[name] = value;
      refresh();
      renderTables();
    };
    if (control.list) {
      const select = element(
        "select",
        { onchange: (event) => choose(event.target.value) },
        ...options.map(([value, text]) => element("option", { value, selected: value === state[name] }, text)),
      );
      place.append(element("label", {}, `${control.label} `, select));
    } else {
      place.append(
        element(
          "fieldset",
          { class: "choice" },
          element("legend", {}, control.label),
          ...options.map(([value, text]) =>
            element(
              "label",
              {},
              element("input", {
                type: "radio",
                name: `choice-${name}`,
                value,
                checked: value === state[name],
                onchange: () => choose(value),
              }),
              element("span", {}, text),
            ),
          ),
        ),
      );
    }
  }
}

/** The legend of every figure: a button an arm, which hides and shows it. */
function renderArms() {
  byId("arms").replaceChildren(
    ...data.arms.map((arm, i) =>
      element(
        "button",
        {
          type: "button",
          class: "arm",
          title: `${arm.label}: hide or show`,
          "aria-pressed": String(!state.hidden.has(i)),
          style: `--arm:${colour(i)}`,
          onclick: (event) => {
            if (!state.hidden.delete(i)) state.hidden.add(i);
            event.currentTarget.setAttribute("aria-pressed", String(!state.hidden.has(i)));
            refresh();
          },
        },
        swatch(i),
        arm.label,
      ),
    ),
  );
}
function swatch(arm) {
  const gap = { solid: "", dash: "6 3", dashdot: "6 2 2 2" }[dash(arm)];
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 22 10");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
  line.setAttribute("d", "M1 5H21");
  line.setAttribute("stroke-dasharray", gap);
  svg.append(line);
  return svg;
}
