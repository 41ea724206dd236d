// What is painted over a picture, stroke by stroke, so that each can be taken back. The canvas has the proportions of the
// picture and is opaque where something is painted.
const MASK_SIDE = 1024; // pixels of the longer side of a mask, at most
class Strokes {
  constructor(canvas) {
    Object.assign(this, { canvas, pen: canvas.getContext("2d", { willReadFrequently: true }), done: [], undone: [] });
  }
  // For a picture of that size, with the strokes that were stored for it.
  begin(width, height, done = []) {
    const scale = Math.min(1, MASK_SIDE / Math.max(width, height));
    Object.assign(this.canvas, { width: Math.max(1, width * scale), height: Math.max(1, height * scale) });
    Object.assign(this, { done, undone: [] });
    this.redraw();
  }
  // `width` and all points are pixels of the mask. "invert" has no points.
  add(kind, width = 0, ...points) {
    this.undone = [];
    this.done.push({ kind, width, points });
    this.draw(this.done.at(-1), 0);
  }
  extend(x, y) {
    const stroke = this.done.at(-1);
    stroke.points.push(x, y);
    this.draw(stroke, stroke.points.length - 4);
  }
  draw({ kind, width, points }, from) {
    const { pen, canvas } = this;
    Object.assign(pen, { lineCap: "round", lineJoin: "round", lineWidth: width, strokeStyle: "#ff4081", fillStyle: "#ff4081" });
    pen.globalCompositeOperation = { brush: "source-over", eraser: "destination-out", invert: "xor" }[kind];
    if (kind === "invert") return pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.beginPath();
    pen.moveTo(points[from], points[from + 1]);
    pen.lineTo(points[from] + 0.1, points[from + 1]); // a line without length would leave no dot
    for (let at = from + 2; at < points.length; at += 2) pen.lineTo(points[at], points[at + 1]);
    pen.stroke();
  }
  redraw() {
    this.pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    for (const stroke of this.done) this.draw(stroke, 0);
  }
  undo() {
    if (this.done.length) this.undone.push(this.done.pop());
    this.redraw();
  }
  redo() {
    if (this.undone.length) this.done.push(this.undone.pop());
    this.redraw();
  }
  wipe() {
    this.begin(this.canvas.width, this.canvas.height);
  }
  mask() {
    return this.done.length ? this.canvas.toDataURL("image/png") : "";
  }
}
