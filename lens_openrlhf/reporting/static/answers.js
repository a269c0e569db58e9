// The panel of sample answers.

let shown = null; // { run, step }: what the panel shows
let opener = null;
const readable = () =>
  data.samples.map((entry, i) => ({ ...entry, i })).filter((entry) => Object.keys(entry.texts).length);
const stepsOf = (entry) =>
  Object.keys(entry.texts)
    .map(Number)
    .sort((a, b) => a - b);

function openPanel(arm, step) {
  const own = data.samples.map((_, i) => i).filter((i) => data.samples[i].arm === arm);
  const run =
    own.find((i) => shown && i === shown.run) ?? own.find((i) => Object.keys(data.samples[i].texts).length) ?? own[0];
  opener = document.activeElement;
  shown = { run, step };
  byId("panel").hidden = false;
  document.body.classList.add("with-panel");
  renderPanel();
  byId("panel-heading").focus();
}
function closePanel() {
  byId("panel").hidden = true;
  document.body.classList.remove("with-panel");
  opener?.focus?.();
}
function showStep(step) {
  shown = { ...shown, step };
  renderPanel();
  byId("panel-body").scrollTop = 0;
}
byId("panel-close").addEventListener("click", closePanel);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !byId("panel").hidden) closePanel();
});
byId("panel-run").addEventListener("change", (event) => {
  shown.run = Number(event.target.value);
  renderPanel();
});
byId("panel-step").addEventListener("change", (event) => showStep(Number(event.target.value)));
const neighbour = (by) => {
  const list = byId("panel-step");
  showStep(Number(list.options[list.selectedIndex + by].value));
};
byId("panel-before").addEventListener("click", () => neighbour(-1));
byId("panel-after").addEventListener("click", () => neighbour(1));
byId("read-answers").addEventListener("click", () => {
  const entry = readable()[0];
  openPanel(entry.arm, stepsOf(entry).at(-1));
});

function renderPanel() {
  const entry = data.samples[shown.run];
  const steps = stepsOf(entry);
  const asked = shown.step;
  const step = steps.reduce((a, b) => (a === null || Math.abs(b - asked) < Math.abs(a - asked) ? b : a), null);
  byId("panel-heading").textContent = step === null ? "Answers" : `Answers of step ${step}`;
  byId("panel-run").replaceChildren(
    ...data.samples.map((s, i) =>
      element(
        "option",
        { value: i, selected: i === shown.run },
        data.arms[s.arm].label + (data.arms[s.arm].runs.length > 1 ? `, seed ${s.seed ?? s.run}` : ""),
      ),
    ),
  );
  byId("panel-step").replaceChildren(
    ...steps.map((s) => element("option", { value: s, selected: s === step }, String(s))),
  );
  byId("panel-before").disabled = !steps.some((s) => s < step);
  byId("panel-after").disabled = !steps.some((s) => s > step);
  const note = byId("panel-note");
  note.hidden = step === asked;
  if (step !== null) {
    const before = asked === 0 ? ", before training" : "";
    note.textContent = `The page has no answers of step ${asked}${before}; these are of step ${step}, the nearest that has some.`;
  } else {
    note.textContent = entry.recorded
      ? "This run kept samples, but none of their texts are on this page (--logger.sample_prompts, --sample_steps)."
      : "This run kept no samples, so there are no answers to read.";
  }
  byId("panel-body").replaceChildren(...(entry.texts[step] ?? []).map(promptCard));
}

function promptCard(prompt) {
  const right = prompt.answers.filter((a) => a.correctness === 1).length;
  const strongest = Math.max(...prompt.answers.map((a) => Math.abs(a.advantage ?? 0)));
  // The most confident first: where wrong, these are the ones that LENS penalises most.
  const answers = [...prompt.answers].sort((a, b) => (b.confidence ?? -1) - (a.confidence ?? -1));
  return element(
    "article",
    { class: "prompt" },
    element(
      "p",
      { class: "badges" },
      element("span", { class: `badge ${prompt.kind}` }, `${prompt.kind} group`),
      soft(` ${right} of ${prompt.answers.length} right`),
      known(prompt.difficulty) ? soft(`, difficulty ${number(prompt.difficulty)}`) : null,
      soft("; most confident first"),
    ),
    element("pre", { class: "question" }, prompt.prompt ?? ""),
    element("p", { class: "label" }, soft("Label: "), element("code", {}, prompt.label ?? "–")),
    element(
      "ol",
      {},
      ...answers.map((a) =>
        element(
          "li",
          { class: a.correctness === 1 ? "right" : "wrong" },
          element(
            "p",
            { class: "verdict" },
            element(
              "strong",
              {},
              a.correctness === 1 ? "✓ right" : a.correctness === 0 ? "✗ wrong" : `✗ ${number(a.correctness)} right`,
            ),
            ...[
              ["confidence", number(a.confidence)],
              ["reward", number(a.reward)],
              ["tokens", a.tokens],
            ].map(([name, value]) => element("span", {}, soft(`${name} `), String(value))),
            a.truncated ? element("span", {}, "cut off") : null,
            element(
              "span",
              { class: "advantage" },
              soft("advantage "),
              number(a.advantage),
              element("i", {
                class: a.advantage < 0 ? "minus" : "plus",
                style: `--size:${strongest ? Math.abs(a.advantage ?? 0) / strongest : 0}`,
              }),
            ),
          ),
          element("pre", {}, a.text),
        ),
      ),
    ),
  );
}

function renderAnswersSection() {
  const any = readable();
  byId("read-answers").hidden = !any.length;
  const steps = Math.max(0, ...any.map((entry) => stepsOf(entry).length));
  byId("answers-note").textContent = any.length
    ? `What the model wrote, with reward, confidence and advantage, at up to ${steps} steps of each run. ` +
      "A click on a point of a curve over training leads there too."
    : "No answers to read: no run kept texts of its samples.";
}
