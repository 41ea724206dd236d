// Drawers of settings stay as the user left them, in this browser.
const drawers = new WeakSet();
onChange(() => {
  for (const drawer of document.querySelectorAll(".remembered-drawer")) {
    const handle = drawer.querySelector(":scope > .label-wrap");
    if (!handle || drawers.has(handle)) continue;
    drawers.add(handle);
    const key = `janus-drawer-${drawer.id}`, open = () => handle.classList.contains("open");
    if (store.get(key) === "open" && !open()) handle.click();
    handle.addEventListener("click", () => setTimeout(() => store.set(key, open() ? "open" : "closed")));
  }
});
