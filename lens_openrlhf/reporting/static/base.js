// What the page shows, what its controls are set to, and small helpers.

let data = JSON.parse(document.getElementById("report-data").textContent);
const state = {
  k: null,
  split: "all",
  column: null,
  kind: "negative",
  window: "all",
  length: null,
  metric: null,
  smooth: null,
  hidden: new Set(),
};
const drawn = new Set();
const byId = (id) => document.getElementById(id);
const narrow = () => window.innerWidth < 700;
const touch = matchMedia("(pointer: coarse)").matches;

/** An element; children are nodes or text, which is never read as HTML. */
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}
/** Plotly reads some HTML in its labels; text of a run is to be shown as it is. */
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const known = (value) => value !== null && value !== undefined;
const percent = (value, digits = 1) => (known(value) ? (100 * value).toFixed(digits) : "–");
function signed(value, digits) {
  const text = Math.abs(100 * value).toFixed(digits);
  return (Number(text) === 0 ? "" : value < 0 ? "−" : "+") + text;
}
const range = (count) => [...Array(count).keys()];
const sum = (values) => values.reduce((a, b) => a + b, 0);
const ratio = (value) => (known(value) ? `${percent(value)}%` : "–");
const count = (value) => value.toLocaleString("en-US");
const plural = (n, word) => `${count(n)} ${word}${n === 1 ? "" : "s"}`;
function number(value) {
  if (!known(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2).replace("-", "−");
  return String(+value.toPrecision(4)).replace("-", "−");
}
const seeds = (arm) => data.arms[arm].runs.length;
