// Figures drawn: Plotly's traces and layouts of what figures.js says.

/** Axes of panel i, below each other or in a grid, and where the panel's title stands. */
function axes(spec, ink, small) {
  const { panels } = spec;
  const across = spec.grid ? Math.min(panels.length, small ? 1 : panels.length === 4 ? 2 : 3) : 1;
  const down = Math.ceil(panels.length / across);
  const total = sum(panels.map((p) => p.weight ?? 1));
  const layout = { annotations: [] };
  let used = 0;
  panels.forEach((panel, i) => {
    const [column, row] = [i % across, Math.floor(i / across)];
    const gapX = across > 1 ? 0.06 : 0;
    const gapY = spec.grid ? (small ? 0.36 : 0.3) / down : 0.09;
    const width = (1 - gapX * (across - 1)) / across;
    const left = column * (width + gapX);
    let bottom, top;
    if (spec.grid) {
      const height = (1 - gapY * (down - 1)) / down;
      top = 1 - row * (height + gapY);
      bottom = top - height;
    } else {
      const height = ((1 - gapY * (panels.length - 1)) * (panel.weight ?? 1)) / total;
      top = 1 - used;
      bottom = top - height;
      used += height + gapY;
    }
    const n = i ? i + 1 : "";
    const x = panel.x ?? {};
    const y = panel.y ?? {};
    const base = {
      gridcolor: ink.grid,
      linecolor: ink.line,
      zerolinecolor: ink.grid,
      tickfont: { color: ink.soft, size: 12 },
      fixedrange: touch,
      automargin: true,
      zeroline: false,
      exponentformat: "power",
    };
    const title = (text) => ({ text: text ?? "", font: { color: ink.soft, size: 12 }, standoff: 8 });
    const hideX = x.hidden || (spec.grid && small && i < panels.length - across);
    layout[`xaxis${n}`] = {
      ...base,
      domain: [left, left + width],
      anchor: `y${n}`,
      title: title(hideX ? "" : x.title),
      showline: true,
      showgrid: false,
      showticklabels: !x.hidden,
      ticks: x.hidden ? "" : "outside",
      tickcolor: ink.line,
      nticks: 7,
      showspikes: !spec.closest,
      spikemode: "across",
      spikethickness: 1,
      spikedash: "solid",
      spikecolor: ink.line,
      ...(x.title && { unifiedhovertitle: { text: x.hover ?? `${x.title} %{x}` } }),
      ...(x.type && { type: x.type }),
      ...(x.ticks && { tickvals: x.ticks, ticktext: x.labels ?? x.ticks.map(String) }),
      ...(x.labels && { tickfont: { color: ink.soft, size: 10.5 }, tickangle: small ? -70 : 0 }),
      ...(x.range && { range: x.range }),
      ...(x.rangemode && { rangemode: x.rangemode }),
      ...(spec.panels.length > 1 && !spec.grid && i > 0 && { matches: "x" }),
    };
    layout[`yaxis${n}`] = {
      ...base,
      domain: [Math.max(0, bottom), top],
      anchor: `x${n}`,
      title: title(y.title),
      nticks: y.ticks ?? 6,
      ...(y.format && { tickformat: y.format }),
      ...(y.ticksuffix && { ticksuffix: y.ticksuffix }),
      ...(y.category
        ? { type: "category", autorange: "reversed", showgrid: false, tickfont: { color: ink.text, size: 12 } }
        : { rangemode: y.rangemode ?? "normal" }),
      ...(y.range && { range: y.range }),
    };
    if (panel.title)
      layout.annotations.push({
        text: plain(panel.title),
        showarrow: false,
        xref: "paper",
        yref: "paper",
        x: left,
        y: top,
        xanchor: "left",
        yanchor: "bottom",
        yshift: 4,
        font: { color: ink.text, size: 12.5 },
      });
  });
  layout.down = down;
  return layout;
}

/** Stretches of points that have a band, as one outline each. */
function bandOutline(series, scale) {
  const outline = { x: [], y: [] };
  let stretch = [];
  const close = () => {
    if (stretch.length > 1) {
      if (outline.x.length) {
        outline.x.push(null);
        outline.y.push(null);
      }
      const back = [...stretch].reverse();
      outline.x.push(...stretch.map((i) => series.x[i]), ...back.map((i) => series.x[i]));
      outline.y.push(
        ...stretch.map((i) => scale * (series.y[i] + series.e[i])),
        ...back.map((i) => scale * (series.y[i] - series.e[i])),
      );
    }
    stretch = [];
  };
  series.x.forEach((_, i) => (known(series.e?.[i]) && known(series.y[i]) ? stretch.push(i) : close()));
  close();
  return outline.x.length ? outline : null;
}

function hoverText(series, i, show) {
  const name = `<b>${plain(data.arms[series.arm].label)}</b>${series.what ? ` ${series.what}` : ""}`;
  if (series.told) return `${name}  ${plain(series.told(i))}`;
  const error = known(series.e?.[i]) ? ` ± ${show(series.e[i])}` : "";
  const runs = series.n && series.n[i] < series.of ? `  (${series.n[i]} of ${series.of} runs)` : "";
  return `${name}  ${show(series.y[i])}${error}${runs}`;
}

/** Plotly's traces and layout of a figure; `forFile` in light colours with title and legend. */
function build(id, { look = mode(), forFile = false, width = 900 } = {}) {
  const spec = FIGURES[id]();
  // A box with all arms' values would not fit.
  spec.closest ||= data.arms.length - state.hidden.size > 10;
  const ink = INK[look];
  const small = !forFile && narrow();
  const traces = [];
  const named = new Set();
  const place = (panel = 0) => (panel ? { xaxis: `x${panel + 1}`, yaxis: `y${panel + 1}` } : {});
  for (const guide of spec.guides ?? []) {
    traces.push({
      type: "scatter",
      mode: "lines",
      x: guide.x,
      y: guide.y,
      ...place(guide.panel),
      name: guide.name,
      showlegend: forFile,
      line: {
        color: guide.solid ? ink.text : ink.line,
        width: guide.solid ? 2 : 1.2,
        dash: guide.solid ? "solid" : "dot",
      },
      ...(guide.told
        ? { text: guide.x.map((_, i) => plain(guide.told(i))), hovertemplate: "%{text}<extra></extra>" }
        : { hoverinfo: "skip" }),
    });
  }
  for (const series of spec.series) {
    if (state.hidden.has(series.arm)) continue;
    const tone = colour(series.arm, look);
    const y = spec.panels[series.panel ?? 0].y ?? {};
    const scale = y.scale ?? 1;
    const show = y.show ?? number;
    const outline = series.bars ? null : bandOutline(series, scale);
    if (outline)
      traces.push({
        type: "scatter",
        mode: "lines",
        ...outline,
        ...place(series.panel),
        fill: "toself",
        fillcolor: faint(tone, 0.16 * Math.min(1, 4 / data.arms.length)),
        line: { width: 0 },
        hoverinfo: "skip",
        showlegend: false,
        meta: "band",
      });
    const label = data.arms[series.arm].label + (series.what ? `, ${series.what}` : "");
    const common = {
      x: series.x,
      ...place(series.panel),
      name: plain(label),
      legendgroup: label,
      meta: series.arm,
      showlegend: !named.has(label),
      text: series.x.map((_, i) => hoverText(series, i, show)),
      hovertemplate: "%{text}<extra></extra>",
    };
    named.add(label);
    if (series.bars) {
      traces.push({
        type: "bar",
        ...common,
        y: series.y,
        marker: { color: tone },
        textposition: "none",
        ...(series.lying && { orientation: "h" }),
        ...(series.e?.some(known) && {
          [series.lying ? "error_x" : "error_y"]: { array: series.e, color: ink.soft, thickness: 1, width: 2 },
        }),
      });
    } else {
      const markers = series.markers ?? series.x.length <= 40;
      traces.push({
        type: "scatter",
        mode: markers ? "lines+markers" : "lines",
        ...common,
        y: scale === 1 ? series.y : series.y.map((v) => (known(v) ? scale * v : null)),
        line: {
          color: tone,
          width: 2,
          dash: series.dash ?? dash(series.arm),
          ...(series.shape && { shape: series.shape }),
        },
        marker: { size: series.x.length > 25 ? 4 : 7, symbol: SYMBOLS[series.arm % SYMBOLS.length], color: tone },
      });
    }
  }
  const { annotations, down, ...placed } = axes(spec, ink, small);
  const height = spec.height ?? (spec.grid ? 70 + down * (small ? 215 : 240) : spec.panels.length > 1 ? 400 : 320);
  const layout = {
    ...placed,
    annotations,
    height: forFile ? height + 120 : height,
    ...(forFile && { width }),
    margin: forFile
      ? { l: 64, r: 24, t: 64, b: 56 }
      : { l: small ? 44 : 52, r: 10, t: spec.panels[0]?.title ? 26 : 10, b: 44 },
    paper_bgcolor: forFile ? ink.page : "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", color: ink.text, size: 13 },
    showlegend: forFile,
    legend: { orientation: "h", x: 0, y: -0.12, yanchor: "top", font: { size: 12 } },
    ...(forFile && { title: { text: plain(spec.title), x: 0.02, xanchor: "left", font: { size: 17 } } }),
    hovermode: spec.closest ? "closest" : "x unified",
    hoverdistance: spec.closest ? 20 : -1,
    dragmode: touch ? false : "zoom",
    hoverlabel: {
      bgcolor: ink.page,
      bordercolor: ink.line,
      font: { color: ink.text, size: 12.5 },
      align: "left",
      namelength: -1,
    },
    bargap: 0.25,
    bargroupgap: 0.08,
    barmode: "group",
    uirevision: spec.file,
  };
  return { spec, traces, layout };
}

const CONFIG = { displayModeBar: false, responsive: false, doubleClick: "reset", showTips: false };

/** Title, notes and room of a figure, drawn or not, so that nothing moves when it comes into view. */
function describe(id) {
  const card = document.querySelector(`[data-figure="${id}"]`);
  const { spec, traces, layout } = build(id);
  const nothing = !spec.series.length && !spec.guides?.some((guide) => guide.solid);
  const lacking = range(data.arms.length).filter((arm) => !spec.series.some((s) => s.arm === arm && s.y.some(known)));
  const notes = spec.under ? [spec.under] : [];
  if (spec.series.length && lacking.length)
    notes.push(`Nothing logged for ${lacking.map((arm) => data.arms[arm].label).join(", ")}.`);
  card.querySelector("h3").textContent = spec.title;
  card.querySelector(".under").textContent = nothing ? "" : notes.join(" ");
  card.querySelector(".empty").textContent = nothing
    ? `Nothing to show: ${spec.lack ?? `no run has ${spec.file ?? "such"} values`}.`
    : "";
  card.querySelectorAll("[data-save]").forEach((button) => {
    button.disabled = nothing;
  });
  const plot = card.querySelector(".plot");
  plot.hidden = nothing;
  plot.style.minHeight = `${layout.height}px`;
  plot.setAttribute("aria-label", `${spec.title}. The values are in the CSV file.`);
  return nothing ? null : { traces, layout };
}
function draw(id) {
  const plot = document.querySelector(`[data-figure="${id}"] .plot`);
  const built = describe(id);
  if (!built) return Plotly.purge(plot);
  Plotly.react(plot, built.traces, built.layout, CONFIG);
  if (!plot.dataset.ready) {
    plot.dataset.ready = "yes";
    plot.on("plotly_click", (event) => clicked(id, event));
  }
}
/** Everything that the controls, the arms shown and the width decide. */
function refresh() {
  Object.keys(FIGURES).forEach((id) => (drawn.has(id) ? draw(id) : describe(id)));
}

/** A click on a curve over training: the answers of that step, of the arm whose point is nearest. */
function clicked(id, event) {
  if (!FIGURES[id]().toSamples) return;
  const points = event.points.filter((p) => typeof p.data.meta === "number");
  if (!points.length) return;
  const at = event.event.clientY - event.event.target.getBoundingClientRect().top;
  const distance = (p) => Math.abs(p.yaxis.d2p(p.y) - at);
  const nearest = points.reduce((a, b) => (distance(b) < distance(a) ? b : a));
  const [arm, step] = [nearest.data.meta, Math.round(nearest.x)];
  const open = () => openPanel(arm, step);
  if (!touch) return open();
  // On a touch screen the tap has shown the values; the answers are one more tap away.
  const link = document.querySelector(`[data-figure="${id}"] .to-answers`);
  link.replaceChildren(element("button", { type: "button", onclick: open }, `Answers of step ${step}`));
}
