// Drawers of settings stay as the user left them, in this browser.
const drawers = new WeakSet();
const remember = async (handle, key) => {
  const open = () => handle.classList.contains("open");
  for (let tries = 0; tries < 100 && store.get(key) === "open" && !open(); tries += 1) {
    handle.click(); // not heard while Gradio still builds the drawer
    await wait(100);
  }
  handle.addEventListener("click", () => setTimeout(() => store.set(key, open() ? "open" : "closed")));
};
onChange(() => {
  for (const drawer of document.querySelectorAll(".remembered-drawer")) {
    const handle = drawer.querySelector(":scope > .label-wrap");
    if (!handle || drawers.has(handle)) continue;
    drawers.add(handle);
    void remember(handle, `janus-drawer-${drawer.id}`);
  }
});
