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

// Whatever stands above the canvas, as the welcome does, takes its room from the picture: the prompt stays in view.
let aboveCanvas = 0;
const fitCanvas = () => {
  const canvas = document.getElementById("draw-canvas");
  if (!visible(canvas)) return;
  const above = Math.round(canvas.getBoundingClientRect().top + scrollY) + 12;
  if (above === aboveCanvas) return;
  aboveCanvas = above;
  document.documentElement.style.setProperty("--above-canvas", `${above}px`);
};
onChange(beforeFrame(fitCanvas));
document.addEventListener("DOMContentLoaded", () => new ResizeObserver(fitCanvas).observe(document.body));
