// What the other scripts of this folder share; janus_app/ui/assets.py puts them all into one function, this one first.
const visible = (element) => element && element.offsetParent !== null;
const button = (id) => {
  const found = document.getElementById(id);
  return found && (found.tagName === "BUTTON" ? found : found.querySelector("button"));
};
const press = (candidates) => {
  const target = candidates.find((element) => element && visible(element) && !element.disabled);
  if (target) target.click();
  return Boolean(target);
};
const inBox = (name) => document.querySelector(`#chat-box .${name}`);
const store = { // a browser may forbid storage; then nothing is stored
  get: (key) => { try { return localStorage.getItem(key); } catch { return null; } },
  set: (key, value) => { try { localStorage.setItem(key, value); } catch { /* not stored */ } },
};
const wait = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

// `act` is called after every change of the page's elements.
const watchers = [];
const onChange = (act) => watchers.push(act);
// For what measures the page: once before the next frame, however often it is called until then.
const beforeFrame = (act) => {
  let waiting = 0;
  return () => { waiting ||= requestAnimationFrame(() => { waiting = 0; act(); }); };
};
new MutationObserver(() => watchers.forEach((act) => act()))
  .observe(document.documentElement, { subtree: true, childList: true });
