// The menu "..." of a picture is a popover: the browser closes it on Escape or a click elsewhere. It opens beside its button.
const placeMenu = (menu, opener) => {
  const from = opener.getBoundingClientRect(), size = menu.getBoundingClientRect(), edge = 12;
  const left = Math.min(from.left, innerWidth - size.width - edge);
  const top = from.top > size.height + 8 ? from.top - size.height - 8 : Math.min(from.bottom + 8, innerHeight - size.height - edge);
  Object.assign(menu.style, { left: `${Math.max(edge, left)}px`, top: `${Math.max(edge, top)}px` });
};
const linkMenus = () => {
  for (const opener of document.querySelectorAll(".dots:not([aria-haspopup])")) {
    const menu = opener.parentElement.querySelector(".menu");
    if (!menu) continue;
    opener.setAttribute("aria-haspopup", "true");
    menu.popover = "auto";
    opener.popoverTargetElement = menu;
    menu.addEventListener("toggle", (event) => event.newState === "open" && placeMenu(menu, opener));
    menu.addEventListener("click", (event) => event.target.closest("button") && menu.hidePopover());
  }
};
onChange(linkMenus);

// The tile that was chosen is marked at once; the server sends the large picture. A tile below the fold brings it into view.
document.addEventListener("click", (event) => {
  const tile = event.target.closest?.(".tile");
  if (!tile) return;
  const panel = tile.closest("[role=tabpanel]");
  for (const other of panel.querySelectorAll(".tile")) {
    if (other.dataset.picture === tile.dataset.picture) other.setAttribute("aria-current", "true");
    else other.removeAttribute("aria-current");
  }
  if (tile.closest(".runs")) panel.querySelector("[id$=-picture]")?.scrollIntoView({ block: "nearest", behavior: "smooth" });
});

// What is drawn comes into view when it begins, wherever on the page that was asked for.
const BEGINS = "#draw-run, #draw-exact, #tokens-draw-on, #tokens-draw-with";
document.addEventListener("click", (event) => {
  if (event.target.closest?.(BEGINS)) document.getElementById("draw-stage").scrollIntoView({ block: "nearest", behavior: "smooth" });
});

// The lightbox: a picture as large as the window, the arrow keys, its own pixels, and the four verbs.
const lightbox = () => document.getElementById("lightbox");
let album = [], shownAt = 0, albumTab = "";
const CRISP = 3; // enlarged beyond this, a picture shows its pixels instead of being blurred
const showAt = (place) => {
  shownAt = (place + album.length) % album.length;
  const from = album[shownAt], picture = lightbox().querySelector(".view img"), width = Number(from.dataset.width);
  picture.src = from.dataset.full;
  picture.alt = from.querySelector("img")?.alt ?? "";
  const across = Math.min(innerWidth / width, innerHeight / Number(from.dataset.height));
  picture.classList.toggle("crisp", across > CRISP);
  lightbox().querySelector("p").textContent =
    `${picture.alt} · ${width} × ${from.dataset.height} · ${shownAt + 1} / ${album.length}`;
  for (const step of lightbox().querySelectorAll(".step")) step.hidden = album.length < 2;
  if (from.classList.contains("tile")) from.click(); // it is the chosen picture now
  if (from.dataset.key) window.janus.chat.picture(from.dataset.key);
};
const native = (on) => {
  lightbox().classList.toggle("native", on);
  lightbox().querySelector("[data-box=native]").setAttribute("aria-pressed", String(on));
};
const openLightbox = (from) => {
  const panel = from.closest("[role=tabpanel]") ?? document.body;
  const runs = [...panel.querySelectorAll(".runs [data-full]")];
  album = (runs.length ? runs : [...panel.querySelectorAll("[data-full]")]).filter(
    (one, place, all) => all.findIndex((other) => other.dataset.full === one.dataset.full) === place,
  );
  albumTab = panel.querySelector(".verbs")?.id.replace(/-verbs$/, "") ?? "";
  lightbox().querySelector(".verbs-of").hidden = !visible(button(`${albumTab}-save`));
  lightbox().showModal();
  native(false);
  showAt(Math.max(0, album.findIndex((one) => one.dataset.full === from.dataset.full)));
};
const boxActs = {
  close: () => lightbox().close(),
  previous: () => showAt(shownAt - 1),
  next: () => showAt(shownAt + 1),
  native: () => native(!lightbox().classList.contains("native")),
};
document.addEventListener("click", (event) => {
  const from = event.target.closest?.("[data-enlarge]");
  if (from && lightbox()) openLightbox(from);
  const act = event.target.closest?.("[data-box]")?.dataset.box;
  if (!act) return;
  if (boxActs[act]) boxActs[act]();
  else {
    lightbox().close();
    window.janus.press(`${albumTab}-${act}`);
  }
});
document.addEventListener("keydown", (event) => {
  if (!lightbox()?.open) return;
  if (event.key === "ArrowLeft") boxActs.previous();
  if (event.key === "ArrowRight") boxActs.next();
});
