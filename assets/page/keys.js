// Keyboard shortcuts: Ctrl+Enter runs the open tab, Escape stops it. Buttons are found by their element id.
const RUNS = ["draw-run", "edit-run", "compare-run", "grid-run"];
const STOPS = ["draw-stop", "edit-stop", "compare-stop", "grid-stop", "model-cancel"];

document.addEventListener("keydown", (event) => {
  if (event.isComposing) return; // the Enter that ends a word of an input method is not a command
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    if (press([inBox("submit-button"), ...RUNS.map(button)])) {
      event.preventDefault();
      event.stopPropagation();
    }
  } else if (event.key === "Escape") {
    if (drawerOpen()) toggleDrawer();
    else press([inBox("stop-button"), ...STOPS.map(button)]);
  }
}, true);

// While a job runs, its Stop stands where its Run was: the one takes the focus of the other, which would be lost.
const pairs = RUNS.map((run, place) => [run, STOPS[place]]);
let focused = "";
document.addEventListener("focusin", (event) => { focused = event.target.id; });
document.addEventListener("pointerdown", () => { focused = ""; }, true); // a press beside all buttons is meant
onChange(() => {
  if (document.activeElement !== document.body) return;
  const pair = pairs.find((ids) => ids.includes(focused));
  if (pair) pair.map(button).find((other) => visible(other) && !other.disabled)?.focus();
});

// Single-character shortcuts, unless the user is typing or has switched them off; buttons of the help and the welcome card.
const PROMPTS = ["draw-prompt", "edit-prompt", "compare-prompt", "chat-box", "history-words"];
const sheet = () => document.getElementById("keys-sheet");
const welcome = (on) => document.documentElement.classList.toggle("welcomed", !on);
if (store.get("janus-welcome") === "done") welcome(false);
const dark = (on) => document.body.classList.toggle("dark", on);
const acts = {
  drawer: () => toggleDrawer(),
  keys: () => sheet().showModal(),
  close: () => sheet().close(),
  theme: () => {
    const on = !document.body.classList.contains("dark");
    dark(on);
    store.set("janus-theme", on ? "dark" : "light");
  },
  welcome: () => {
    welcome(true);
    sheet().close();
  },
  welcomed: () => {
    welcome(false);
    store.set("janus-welcome", "done");
    opened()?.[1].focus();
  },
  forget: () => {
    for (const key of Object.keys(localStorage)) if (key.startsWith("janus-")) localStorage.removeItem(key);
    window.janus.forgetEntered();
    location.reload();
  },
};
document.addEventListener("click", (event) => {
  const act = event.target.closest?.("[data-janus]")?.dataset.janus;
  if (act) acts[act]();
  // On a phone the card would push what can be done with the drawing out of sight.
  if (window.innerWidth <= 640 && event.target.closest?.("#draw-run")) welcome(false);
  if (event.target.id === "keys-single") store.set("janus-keys", event.target.checked ? "on" : "off");
});
const tabs = () => [...(document.querySelectorAll("#tabs > .tab-wrapper [role=tab]"))].filter(visible);
const singles = {
  "?": acts.keys,
  "/": () => PROMPTS.map((id) => document.querySelector(`#${id} textarea, #${id} input`)).find(visible)?.focus(),
  r: () => press([button("draw-surprise")]),
  d: acts.theme,
};
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input:not([type=checkbox]), textarea, select, [contenteditable=true]");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (sheet()?.open || store.get("janus-keys") === "off") return;
  const tab = /^[1-9]$/.test(event.key) && tabs()[Number(event.key) - 1];
  const act = tab ? () => tab.click() : singles[event.key.toLowerCase()];
  if (!act) return;
  event.preventDefault();
  act();
});
const initialize = () => { // the sheet, as soon as Gradio has built it
  if (sheet() && !sheet().dataset.initialized) {
    sheet().dataset.initialized = "yes";
    document.getElementById("keys-single").checked = store.get("janus-keys") !== "off";
    const theme = store.get("janus-theme");
    if (theme && !new URLSearchParams(location.search).has("__theme")) dark(theme === "dark");
  }
};
onChange(initialize);
