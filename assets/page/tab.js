// What this browser tab keeps when it is opened anew: the key of its jobs on the server, and unsent prompts. The storage
// of a session belongs to one tab and ends with it.
const session = { // a browser may forbid storage; then nothing is kept
  get: (key) => { try { return sessionStorage.getItem(key); } catch { return null; } },
  set: (key, value) => { try { sessionStorage.setItem(key, value); } catch { /* not kept */ } },
};
const drafts = new Set(); // ids of the boxes whose text was brought back
window.addEventListener("pagehide", () => {
  for (const id of drafts) {
    const box = document.querySelector(`#${id} textarea`);
    if (box) session.set(`janus-${id}`, box.value);
  }
});
Object.assign(window.janus, {
  tabKey: () => session.get("janus-tab") || "",
  keepTabKey: (key) => session.set("janus-tab", key),
  draft: (id, now) => {
    drafts.add(id);
    return session.get(`janus-${id}`) ?? now;
  },
});
