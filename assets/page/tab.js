// What this browser tab keeps when it is opened anew: the key of its jobs on the server, and what was entered and not run
// yet. The storage of a session belongs to one tab and ends with it.
const session = { // a browser may forbid storage; then nothing is kept
  get: (key) => { try { return sessionStorage.getItem(key); } catch { return null; } },
  set: (key, value) => { try { sessionStorage.setItem(key, value); } catch { /* not kept */ } },
};
const values = new Map(); // by the name of a set of components: what they hold now
const put = new Set(), fitted = new Set(); // names of those that were to be put back, and of those that were
let opening = true; // until the user does more than look around, what the page itself fills in gives way again
const LOOKING = "[role=tab], .label-wrap, #draw-drawer-open, #draw-drawer-close";
for (const gesture of ["pointerdown", "keydown"]) {
  window.addEventListener(gesture, (event) => opening &&= Boolean(event.target.closest?.(LOOKING)), true);
}
const entered = new Map(); // when the user last changed what, by id
const inside = (target) => {
  for (let place = target; place; place = place.parentElement) if (place.id) entered.set(place.id, performance.now());
};
for (const change of ["input", "change", "drop", "paste"]) {
  window.addEventListener(change, (event) => event.isTrusted && inside(event.target), true);
}
window.addEventListener("mousedown", (event) => { // a choice from a list
  const option = event.target.closest?.("[role=option]");
  if (option) inside(option);
}, true);
const stored = (name) => { try { return JSON.parse(session.get(`janus-${name}`)); } catch { return null; } };
window.addEventListener("pagehide", () => {
  for (const [name, now] of values) if (put.has(name)) session.set(`janus-${name}`, JSON.stringify(now));
});
Object.assign(window.janus, {
  tabKey: () => session.get("janus-tab") || "",
  keepTabKey: (key) => session.set("janus-tab", key),
  keepValues: (name, now) => values.set(name, now),
  forgetEntered: () => {
    for (const name of put) session.set(`janus-${name}`, "null");
    put.clear(); // nothing is kept when the page is left
  },
  // The first `same` values must be as they were, as the model is: what was entered for another one is not for this.
  // What the user has entered meanwhile into the components with these `ids` stays.
  keptValues: (name, same, ids, now) => {
    put.add(name);
    const before = stored(name), mine = JSON.stringify(now.slice(0, same));
    const fits = before?.length === now.length && JSON.stringify(before.slice(0, same)) === mine;
    if (!fits || (fitted.has(name) && !opening)) return now.slice(same).map(() => AS_IT_IS);
    fitted.add(name);
    return before.slice(same).map((value, place) => entered.has(ids[place]) ? AS_IT_IS : value);
  },
});
