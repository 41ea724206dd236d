// The editor: the picture to edit and, for methods that read a mask, strokes over it (strokes.js). Its value names the
// picture, which only the server chooses, and holds the mask painted over it; janus_app/ui/tabs/edit/editor.py reads it.
// The browser tab keeps the strokes for a refresh.
const STROKES = "janus-strokes";
const MAX_ZOOM = 8, ZOOM_STEP = 1.25;
const takesStrokes = () => !document.querySelector("#edit-method-note .unpainted");
const keptStrokes = (picture) => {
  try {
    const kept = JSON.parse(sessionStorage.getItem(STROKES));
    return kept?.picture === picture ? kept.strokes : [];
  } catch { return []; } // a browser may forbid storage
};
const keepStrokes = (picture, strokes) => {
  try {
    sessionStorage.setItem(STROKES, JSON.stringify({ picture, strokes }));
  } catch { /* not kept */ }
};

class Editor {
  constructor(element, props, trigger) {
    Object.assign(this, { element, props, trigger, tool: "brush", zoom: 1, picture: null, fingers: new Map() });
    const find = (name) => element.querySelector(name);
    for (const name of ["board", "sheet", "cursor"]) this[name] = find(`.${name}`);
    [this.image, this.layer, this.size] = ["img", "canvas", "input[type=range]"].map(find);
    this.strokes = new Strokes(this.layer);
    this.speak();
    this.choose("brush");
    this.listen();
    this.show();
  }
  // The names of the tools, in the language of the page.
  speak() {
    const all = JSON.parse(this.element.querySelector("[data-words]").dataset.words);
    const words = all[document.documentElement.lang] ?? Object.values(all)[0];
    for (const named of this.element.querySelectorAll("[data-word]")) {
      const word = words[named.dataset.word];
      if (named.matches("b")) named.textContent = word;
      else if (named.matches("img")) named.alt = word;
      else if (named.matches("div")) named.ariaLabel = word;
      else Object.assign(named, { ariaLabel: word, title: word });
    }
  }
  listen() {
    const { element, layer, image, board } = this;
    element.addEventListener("click", (event) => {
      const act = event.target.closest("[data-act]")?.dataset.act;
      if (act) this.act(act);
    });
    layer.addEventListener("pointerdown", (event) => this.press(event));
    layer.addEventListener("pointermove", (event) => this.move(event));
    layer.addEventListener("pointerleave", () => this.cursor.hidden = true);
    for (const end of ["pointerup", "pointercancel"]) layer.addEventListener(end, (event) => this.release(event));
    board.addEventListener("wheel", (event) => this.turn(event), { passive: false });
    image.addEventListener("load", () => this.arrive());
    image.addEventListener("error", () => document.body.classList.remove("arriving"));
    document.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.fit()).observe(board);
  }
  // The picture that the server chose; the one that is there keeps its strokes.
  show() {
    const picture = this.props.value?.picture || "";
    if (picture === this.picture) return this.publish();
    this.picture = picture;
    this.element.firstElementChild.classList.toggle("empty", !picture);
    this.zoom = 1;
    this.strokes.begin(1, 1);
    document.body.classList.toggle("arriving", Boolean(picture));
    if (picture) this.image.src = picture.replace("page-root:", (window.gradio_config?.root ?? "").replace(/\/$/, ""));
    else this.image.removeAttribute("src");
  }
  arrive() {
    this.strokes.begin(this.image.naturalWidth, this.image.naturalHeight, keptStrokes(this.picture.slice(-200)));
    this.fit();
    this.publish();
    document.body.classList.remove("arriving");
    window.janus.shown();
  }
  // The picture as large as the board allows, times the zoom, with the same point of it in the middle.
  fit() {
    const { board, image, sheet } = this, { naturalWidth: width, naturalHeight: height } = image;
    if (!width || !board.offsetWidth) return;
    const [x, y] = [board.scrollLeft + board.offsetWidth / 2, board.scrollTop + board.offsetHeight / 2];
    const before = sheet.offsetWidth, scale = this.zoom * Math.min(board.offsetWidth / width, board.offsetHeight / height);
    Object.assign(sheet.style, { width: `${width * scale}px`, height: `${height * scale}px` });
    const grown = before ? sheet.offsetWidth / before : 1;
    board.scrollTo(x * grown - board.offsetWidth / 2, y * grown - board.offsetHeight / 2);
    this.element.querySelector("output").textContent = `${Math.round(100 * this.zoom)} %`;
  }
  publish() {
    const { picture, strokes, props } = this, mask = strokes.mask();
    if (picture && (props.value?.mask ?? "") !== mask) props.value = { picture, mask };
    if (picture) keepStrokes(picture.slice(-200), strokes.done);
    for (const [act, list] of [["undo", strokes.done], ["wipe", strokes.done], ["redo", strokes.undone]])
      this.element.querySelector(`[data-act=${act}]`).disabled = !list.length;
  }
  choose(tool) {
    this.tool = tool;
    for (const one of ["brush", "eraser"]) this.element.querySelector(`[data-act=${one}]`).ariaPressed = String(one === tool);
  }
  act(name) {
    if (name === "brush" || name === "eraser") this.choose(name);
    else if (name === "out" || name === "in") this.zoomBy(name === "in" ? ZOOM_STEP : 1 / ZOOM_STEP);
    else if (name === "fit") this.zoomBy(1 / this.zoom);
    else if (name === "photo") void takePhoto(this.element.querySelector("dialog")).then((file) => give("edit-given", file));
    else if (name === "empty") this.empty();
    else {
      if (name === "invert") this.strokes.add("invert");
      else this.strokes[name](); // undo, redo, wipe
      this.publish();
    }
  }
  empty() {
    this.props.value = null;
    this.show();
    this.trigger("clear");
  }
  zoomBy(factor) {
    this.zoom = Math.min(MAX_ZOOM, Math.max(1, this.zoom * factor));
    this.fit();
  }
  turn(event) {
    if (!event.ctrlKey && !event.metaKey) return; // the page scrolls
    event.preventDefault();
    this.zoomBy(event.deltaY < 0 ? ZOOM_STEP : 1 / ZOOM_STEP);
  }
  // The width of a stroke in pixels of the mask: a share of its longer side.
  width() {
    return Math.max(1, Number(this.size.value) / 100 * Math.max(this.layer.width, this.layer.height));
  }
  at({ offsetX, offsetY }) {
    const scale = this.layer.width / this.layer.clientWidth;
    return [offsetX, offsetY].map((place) => Math.round(10 * place * scale) / 10);
  }
  press(event) {
    this.fingers.set(event.pointerId, event);
    if (this.fingers.size === 2) this.pinch();
    if (event.button || !event.isPrimary || !takesStrokes()) return;
    this.layer.setPointerCapture(event.pointerId);
    this.painting = true;
    this.strokes.add(this.tool, this.width(), ...this.at(event));
  }
  move(event) {
    const wide = this.width() * this.layer.clientWidth / this.layer.width;
    this.cursor.hidden = !takesStrokes() || event.pointerType === "touch";
    Object.assign(this.cursor.style, { width: `${wide}px`, left: `${event.offsetX}px`, top: `${event.offsetY}px` });
    if (this.fingers.has(event.pointerId)) this.fingers.set(event.pointerId, event);
    if (this.spread) this.stretch();
    else if (this.painting) for (const one of event.getCoalescedEvents?.() ?? [event]) this.strokes.extend(...this.at(one));
  }
  release({ pointerId }) {
    this.fingers.delete(pointerId);
    if (!this.fingers.size) this.spread = null;
    if (!this.painting) return;
    this.painting = false;
    this.publish();
  }
  // Two fingers zoom and move the picture; what the first one has painted by then was not meant.
  pinch() {
    if (this.painting) this.strokes.undo();
    this.painting = false;
    this.spread = { ...this.between(), zoom: this.zoom };
  }
  between() {
    const [one, other] = [...this.fingers.values()];
    return {
      far: Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY) || 1,
      x: (one.clientX + other.clientX) / 2, y: (one.clientY + other.clientY) / 2,
    };
  }
  stretch() {
    if (this.fingers.size !== 2) return;
    const { far, x, y } = this.between(), { spread, board } = this;
    this.zoomBy(spread.zoom * far / spread.far / this.zoom);
    board.scrollBy(spread.x - x, spread.y - y);
    Object.assign(spread, { x, y });
  }
  key(event) {
    const typing = event.target.closest?.("textarea, select, input:not([type=range])"), command = event.ctrlKey || event.metaKey;
    if (typing || !visible(this.element) || event.altKey || !takesStrokes()) return;
    if (!command && store.get("janus-keys") === "off") return;
    const key = event.key.toLowerCase();
    const act = command ? { z: event.shiftKey ? "redo" : "undo", y: "redo" }[key] : { b: "brush", e: "eraser" }[key];
    const wider = command ? 0 : { "[": -2, "]": 2 }[key];
    if (!act && !wider) return;
    event.preventDefault();
    if (act) this.act(act);
    else this.size.value = Number(this.size.value) + wider;
  }
}
const openEditor = (element, props, trigger, watch) => {
  const editor = new Editor(element, props, trigger);
  watch("value", () => editor.show());
};
