// The drawer of settings in the draw tab. The browser remembers whether it is open; on a phone it begins closed.
const showDrawer = (open, keep = true) => {
  document.documentElement.classList.toggle("drawer-open", open);
  button("draw-drawer-open")?.setAttribute("aria-expanded", String(open));
  if (keep) store.set("janus-drawer", open ? "open" : "closed");
};
const isDrawerOpen = () => document.documentElement.classList.contains("drawer-open");
document.addEventListener("click", (event) => {
  if (event.target.closest?.("#draw-drawer-open")) showDrawer(!isDrawerOpen());
  if (event.target.closest?.("#draw-drawer-close")) {
    showDrawer(false);
    button("draw-drawer-open")?.focus();
  }
});
showDrawer(innerWidth > 900 && store.get("janus-drawer") === "open", false);
onChange(() => {
  const opener = button("draw-drawer-open");
  if (opener && !opener.hasAttribute("aria-expanded")) opener.setAttribute("aria-expanded", String(isDrawerOpen()));
});

// What is told above the tabs takes its room from the picture: the prompt stays in view.
let roomTold = 0;
const fitTold = () => {
  const parts = ["banner", "model-told"].map((id) => document.getElementById(id)).filter(visible);
  const room = parts.reduce((sum, part) => sum + part.offsetHeight + 12, 0);
  if (room !== roomTold) document.documentElement.style.setProperty("--told", `${roomTold = room}px`);
};
const fitToldSoon = beforeFrame(fitTold);
onChange(fitToldSoon);
window.addEventListener("resize", fitToldSoon);
