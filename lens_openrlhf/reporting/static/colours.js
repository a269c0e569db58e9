// Colours, line styles and markers of the arms, in light and dark.

// After Okabe and Ito, and lighter for a dark page: apart for colour-blind eyes too.
const PALETTE = {
  light: ["#0072b2", "#d55e00", "#00845f", "#b8568f", "#a87400", "#2f9fd8", "#6a5acd", "#5c6670"],
  dark: ["#4ea8e8", "#ff8a47", "#2fc79a", "#e59ac8", "#efb73e", "#9bd9ff", "#b5a8ff", "#b3bcc6"],
};
const DASHES = ["solid", "dash", "dashdot"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "star", "triangle-down", "pentagon"];
const INK = {
  light: { text: "#1d2329", soft: "#5b6672", grid: "#e6e9ed", page: "#ffffff", line: "#a5afba" },
  dark: { text: "#e8ecf0", soft: "#a3aeba", grid: "#2b323a", page: "#171b20", line: "#5d6874" },
};
const systemDark = matchMedia("(prefers-color-scheme: dark)");
let theme = "auto";
try {
  theme = localStorage.getItem("lens-theme") || "auto";
} catch {
  /* a page from a file may have no storage */
}
const mode = () => (theme === "auto" ? (systemDark.matches ? "dark" : "light") : theme);
const colour = (arm, look = mode()) => PALETTE[look][arm % PALETTE[look].length];
const dash = (arm) => DASHES[Math.floor(arm / PALETTE.light.length) % DASHES.length];
function faint(hex, opacity) {
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  return `rgba(${r},${g},${b},${opacity})`;
}

function applyTheme() {
  document.documentElement.dataset.theme = mode();
  byId("theme").textContent = { auto: "Theme: system", light: "Theme: light", dark: "Theme: dark" }[theme];
  renderArms();
  refresh();
}
byId("theme").addEventListener("click", () => {
  theme = { auto: "light", light: "dark", dark: "auto" }[theme];
  try {
    localStorage.setItem("lens-theme", theme);
  } catch {
    /* as above */
  }
  applyTheme();
});
systemDark.addEventListener("change", applyTheme);
