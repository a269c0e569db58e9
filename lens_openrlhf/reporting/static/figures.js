// What each figure shows: title, series, axes. Series are drawn by drawing.js and saved by saving.js.

const stepAxis = () => ({ title: "training step", range: [0, 1.03 * Math.max(1, lastStep())] });
const SHARE = { format: ".0%", show: ratio };

/** Mean over the neighbours within `smooth` steps; errors alike. */
function smoothed(values, xs) {
  const half = (Number(state.smooth) - 1) / 2;
  if (half <= 0) return values;
  let from = 0,
    to = 0;
  return values.map((value, i) => {
    while (xs[from] < xs[i] - half) from++;
    while (to < xs.length && xs[to] <= xs[i] + half) to++;
    const near = values.slice(from, to).filter(known);
    return known(value) ? sum(near) / near.length : null;
  });
}
/** Series of one metric, one an arm; `extra` adds to each. */
function metricSeries(name, extra = {}) {
  return (data.curves[name] ?? []).flatMap((curve, arm) =>
    curve === null
      ? []
      : [
          {
            arm,
            x: curve.x,
            y: smoothed(curve.y, curve.x),
            e: smoothed(curve.e, curve.x),
            raw: curve,
            n: curve.n,
            of: seeds(arm),
            ...extra,
          },
        ],
  );
}
function metricFigure(name, title, y) {
  return {
    title,
    series: metricSeries(name),
    panels: [{ x: stepAxis(), y }],
    toSamples: true,
    file: name,
    under:
      data.width > 1 && data.curves[name] && !name.startsWith("evaluation/")
        ? `Each point is the mean of ${data.width} steps.`
        : "",
  };
}

function passSeries(key, k, extra = {}) {
  const curves = evaluation()?.curves[key]?.[k] ?? [];
  return curves.flatMap((curve, arm) => (curve === null ? [] : [{ arm, ...curve, of: seeds(arm), ...extra }]));
}
const windowText = () => (known(state.window) ? `, ${WINDOWS[state.window]}` : "");
const armEntries = (entries) => (entries ?? []).flatMap((entry, arm) => (entry === null ? [] : [{ arm, ...entry }]));
/** Counts between edges as the outline of a histogram; `what` is binned. */
function histogram(arm, edges, counts, { what, total, ...extra }) {
  const told = (i) =>
    i < counts.length
      ? `${what} ${number(edges[i])} to ${number(edges[i + 1])}: ${ratio(counts[i] / total)} (${plural(counts[i], "answer")})`
      : `${what} ${number(edges[i])}`;
  return {
    arm,
    x: edges,
    y: [...counts.map((n) => n / total), 0],
    count: [...counts, 0],
    shape: "hv",
    markers: false,
    told,
    ...extra,
  };
}
const chosenSplit = () => evaluation()?.splits.find((s) => s.key === state.split);
const promptsText = () => (state.split === "all" ? "" : `, ${SPLIT_LABEL(chosenSplit())}`);
const atStep = () => (known(evaluation().step) ? `after step ${evaluation().step}` : "at each arm's last evaluation");

const FIGURES = {
  "pass-over-training": () => ({
    title: evaluation() ? `Pass@${state.k} over training${promptsText()}` : "Pass@k over training",
    series: passSeries(state.split, state.k),
    panels: [{ x: stepAxis(), y: SHARE }],
    toSamples: true,
    file: `pass-at-${state.k}-${state.split}`,
    lack: "no run was evaluated",
  }),
  "pass-against-k": () => {
    if (!evaluation()) return { title: "Pass@k against k", series: [], panels: [{}], lack: "no run was evaluated" };
    const { ks, table } = evaluation();
    const series = range(data.arms.length).map((arm) => {
      const cells = ks.map((k) => [k, table[state.split][k][arm]]).filter(([, cell]) => cell);
      return {
        arm,
        x: cells.map(([k]) => k),
        y: cells.map(([, c]) => c.mean),
        e: cells.map(([, c]) => c.error),
        n: cells.map(([, c]) => c.n),
        of: seeds(arm),
        markers: true,
      };
    });
    return {
      title: `Pass@k against k ${atStep()}${promptsText()}`,
      series,
      file: `pass-against-k-${state.split}`,
      panels: [{ x: { title: "k", type: "log", ticks: ks }, y: SHARE }],
    };
  },
  "pass-by-split": () => {
    const splits = (evaluation()?.splits ?? []).filter((s) => s.column !== null && s.column === state.column);
    const top = Math.max(
      ...splits.flatMap((s) => passSeries(s.key, state.k).flatMap((c) => c.y.map((y, i) => y + (c.e[i] ?? 0)))),
    );
    const y = { ...SHARE, range: [0, Math.min(1.02, 1.06 * top || 1)] };
    if (splits.length && splits.every((s) => passSeries(s.key, state.k).every((c) => c.x.length < 2)))
      return {
        title: `Pass@${state.k} by ${state.column} ${atStep()}`,
        panels: [{ x: { title: state.column, type: "category" }, y }],
        series: range(data.arms.length).map((arm) => {
          const own = splits.map((s) => passSeries(s.key, state.k).find((c) => c.arm === arm));
          const each = (name) => own.map((curve) => curve?.[name]?.[0] ?? null);
          const x = splits.map((s) => String(s.value));
          return { arm, x, y: each("y"), e: each("e"), n: each("n"), of: seeds(arm), bars: true };
        }),
        file: `pass-at-${state.k}-by-${state.column}`,
      };
    return {
      title: splits.length ? `Pass@${state.k} by ${state.column}` : "Pass@k by split",
      panels: splits.map((s) => ({
        title: `${s.column} = ${s.value} (${plural(s.prompts, "prompt")})`,
        key: s.value,
        x: stepAxis(),
        y,
      })),
      series: splits.flatMap((s, panel) => passSeries(s.key, state.k, { panel })),
      grid: true,
      toSamples: true,
      file: `pass-at-${state.k}-by-${state.column}`,
      lack: evaluation() ? "eval.jsonl names no splits, such as level or datasource" : "no run was evaluated",
    };
  },
  "group-share": () => metricFigure(`lens/${state.kind}_groups`, `Share of ${state.kind} groups`, SHARE),
  "advantage-mass": () =>
    metricFigure(`mass/${state.kind}`, `Advantage mass of ${state.kind} groups`, {
      ...SHARE,
      format: null,
      ticksuffix: "%",
      scale: 100,
      show: (v) => `${number(100 * v)}%`,
    }),
  rescued: () => metricFigure("lens/rescued_samples", `Answers rescued`, SHARE),
  reward: () => metricFigure("rollout/reward_mean", `Reward in training`, { show: number }),
  "confidence-curve": () => ({
    ...metricFigure("lens/confidence_right", `Confidence of right and wrong answers`, { show: number }),
    series: [
      ...metricSeries("lens/confidence_right", { what: "right", dash: "solid" }),
      ...metricSeries("lens/confidence_wrong", { what: "wrong", dash: "dot" }),
    ],
    file: "confidence-right-and-wrong",
  }),
  reliability: () => {
    const entries = armEntries(data.reliability.windows[state.window]);
    const bins = data.reliability.confidence.map((_, i) => i + 1);
    const told = entries.filter((e) => known(e.auc)).map((e) => `${data.arms[e.arm].label} ${e.auc.toFixed(2)}`);
    const x = {
      title: "confidence of the bin",
      ticks: bins,
      labels: data.reliability.confidence.map(number),
      hover: "bin %{x}",
    };
    return {
      title: `Reliability${windowText()}`,
      file: `reliability-${state.window}`,
      panels: [
        { weight: 3, x: { ...x, hidden: true }, y: { ...SHARE, title: "right", range: [-0.03, 1.03] } },
        { weight: 1.2, x, y: { title: "answers", rangemode: "tozero", ticks: 3 } },
      ],
      guides: [{ x: bins, y: data.reliability.confidence, panel: 0, name: "confidence" }],
      series: [
        ...entries.map((e) => ({
          arm: e.arm,
          x: bins,
          y: e.y,
          at: e.x,
          count: e.n,
          panel: 0,
          markers: true,
          told: (i) => `confidence ${number(e.x[i])}: ${ratio(e.y[i])} right of ${plural(e.n[i], "answer")}`,
        })),
        ...entries.map((e) => ({
          arm: e.arm,
          x: bins,
          y: e.n,
          panel: 1,
          bars: true,
          silentCsv: true,
          told: (i) => plural(e.n[i], "answer"),
        })),
      ],
      header: ["confidence", "share_right"],
      under:
        told.length &&
        "Chance that of a right and a wrong answer the right one is the more confident: " +
          `${told.join(", ")} (0.50: confidence says nothing).`,
      lack: "no samples with confidences were kept",
    };
  },
  penalty: () => {
    const { z, w, edges, histograms } = data.penalty;
    const entries = armEntries(histograms[state.window]);
    const told = entries.map((e) => `${data.arms[e.arm].label} ${number(e.mean_weight)}`);
    return {
      title: `Weight of a wrong answer${windowText()}`,
      file: `weight-${state.window}`,
      panels: [
        { weight: 3, x: { range: [0, 1], hidden: true }, y: { title: "w(z)", rangemode: "tozero" } },
        {
          weight: 2,
          x: { title: "z = confidence / difficulty", range: [0, 1] },
          y: { ...SHARE, title: "wrong answers", rangemode: "tozero", ticks: 4 },
        },
      ],
      guides: [
        { x: z, y: w, panel: 0, name: "w(z)", solid: true, told: (i) => `w(${number(z[i])}) = ${number(w[i])}` },
      ],
      series: entries.map((e) => histogram(e.arm, edges, e.n, { panel: 1, what: "z", total: sum(e.n) })),
      header: ["z_from", "share_of_wrong_answers"],
      under: told.length
        ? `Mean weight of a wrong answer: ${told.join(", ")}.`
        : "No samples with confidences were kept, so the runs' own z are not shown.",
    };
  },
  length: () =>
    metricFigure(
      state.length,
      known(state.length) ? `Response length: ${LENGTHS[state.length]}` : "Response length",
      /rate|truncated/.test(state.length) ? { ...SHARE, rangemode: "tozero" } : { show: number },
    ),
  time: () => {
    const phases = Object.entries(data.seconds).filter(([name]) => name !== "timing/step_total");
    const longest = (values) => Math.max(...values.filter(known).map(([mean]) => mean));
    phases.sort(([, a], [, b]) => longest(b) - longest(a));
    const labels = phases.map(([name]) => name.slice("timing/".length).replaceAll("_", " "));
    const series = range(data.arms.length).flatMap((arm) => {
      const own = phases.map(([, values]) => values[arm]);
      return own.some(known)
        ? [
            {
              arm,
              x: own.map((v) => v?.[0] ?? null),
              y: labels,
              e: own.map((v) => v?.[1] ?? null),
              bars: true,
              lying: true,
              told: (i) => `${labels[i]}: ${number(own[i]?.[0])}${own[i]?.[1] ? ` ± ${number(own[i][1])}` : ""} s`,
            },
          ]
        : [];
    });
    return {
      title: "Time a step, by phase",
      series,
      panels: [{ x: { title: "seconds", rangemode: "tozero" }, y: { category: true } }],
      closest: true,
      header: ["seconds", "phase"],
      file: "time",
      height: Math.min(620, Math.max(320, 90 + phases.length * (22 + series.length * 10))),
      lack: "no metric is named timing/…",
    };
  },
  metric: () =>
    metricFigure(
      state.metric,
      known(state.metric) ? `${state.metric}` : "Metrics",
      state.metric?.startsWith("lens/") && state.metric.endsWith("_groups") ? SHARE : { show: number },
    ),
};
