// Everything together: first the text and the tables, then Plotly, then each figure as it comes into view.

function renderAll() {
  renderHeader();
  renderNotices();
  renderControls();
  renderSummary();
  renderArms();
  renderTables();
  renderOptions();
  renderAnswersSection();
  if (shown && !byId("panel").hidden) renderPanel();
}

/** plotly.js is large: it lies in the page deflated, and is unpacked once the text is shown. */
async function loadPlotly() {
  const packed = Uint8Array.from(atob(byId("plotly").textContent), (c) => c.charCodeAt(0));
  const text = await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"))).text();
  document.head.append(element("script", {}, text));
}

function watchFigures() {
  const cards = document.querySelectorAll("[data-figure]");
  const observer = new IntersectionObserver(
    (entries) => {
      for (const entry of entries.filter((e) => e.isIntersecting)) {
        observer.unobserve(entry.target);
        drawn.add(entry.target.dataset.figure);
        draw(entry.target.dataset.figure);
      }
    },
    { rootMargin: "300px" },
  );
  cards.forEach((card) => observer.observe(card));
  let width = window.innerWidth;
  let timer;
  window.addEventListener("resize", () => {
    if (width === window.innerWidth) return; // a phone's address bar
    width = window.innerWidth;
    clearTimeout(timer);
    timer = setTimeout(refresh, 120);
  });
}

/** Asks the server for news of the runs, as long as the page is looked at. */
async function follow() {
  const tell = (text) => {
    byId("live").textContent = text;
  };
  const progress = () => {
    const planned = Math.max(0, ...data.arms.flatMap((arm) => arm.runs.map((run) => run.planned ?? 0)));
    return `· live, step ${lastStep()}${planned ? ` of ${planned}` : ""}`;
  };
  tell(progress());
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, 1500));
    if (document.hidden) continue;
    try {
      const answer = await fetch(`data.json?state=${data.state}`);
      if (answer.status === 409) {
        tell(`· ${(await answer.json()).error}`);
        continue;
      }
      if (answer.status === 200) {
        data = await answer.json();
        renderAll();
        refresh();
      }
      tell(progress());
    } catch {
      tell("· the server has ended; the page stays as it is");
    }
  }
}

renderAll();
prepareCards();
applyTheme();
document.addEventListener("DOMContentLoaded", async () => {
  await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
  try {
    await loadPlotly();
  } catch (error) {
    const text = `The figures cannot be drawn in this browser (${error.message}); one of 2023 or later can.`;
    byId("notices").prepend(element("div", { class: "notice problem" }, text));
    return;
  }
  watchFigures();
  if (data.live) follow();
});
