// A stroke painted while the next picture is on its way to the editor would be lost when it arrives, so the editor takes
// none until then (assets/style/). The strip of the edit tab names the picture that the server sent last; Gradio's editor
// replaces its sprite when it is there. Without that sprite, after an update of Gradio, nothing is held back.
let sent = "";
const awaitPicture = async () => {
  const latest = document.querySelector("#edit-undo [data-sent]")?.dataset.sent, editor = window.editor;
  if (!latest || latest === sent || !editor) return;
  sent = latest;
  const before = editor.background_image, started = Date.now();
  document.body.classList.add("arriving");
  while (sent === latest && editor.background_image === before && Date.now() - started < 30_000) await wait(50);
  if (sent !== latest) return; // a later picture is awaited
  document.body.classList.remove("arriving");
  window.janus.shown();
};
onChange(awaitPicture);

// The editor opens with an example. A picture that is sent before that one is there would be lost, or taken for it.
let begun = null; // the editor that has shown a picture
const begin = () => { if (window.editor?.background_image) begun = window.editor; };
const editorBegun = async () => {
  const started = Date.now();
  for (begin(); (!begun || begun !== window.editor) && Date.now() - started < 30_000; begin()) await wait(50);
};
onChange(begin);

// On a small screen the stage may be out of sight when the drawing begins.
let editing = false;
onChange(() => {
  const begins = Boolean(document.querySelector("#edit-easel .easel"));
  if (begins && !editing) document.getElementById("edit-stage").scrollIntoView({ block: "nearest" });
  editing = begins;
});

// Gradio's editor paints a paper around its picture, white or a grey of its own, by the theme with which the page was
// opened. It gets the colour of the stage instead, also when the user changes the theme.
const fitPaper = () => {
  const stage = document.getElementById("edit-editor"), paper = window.editor?.app?.renderer?.background;
  const colour = stage && getComputedStyle(stage).backgroundColor;
  if (!paper || !colour || paper.fits === colour) return;
  paper.color = paper.fits = colour;
  window.editor.app.render();
};
const fitPaperSoon = beforeFrame(fitPaper);
onChange(fitPaperSoon);
new MutationObserver(fitPaperSoon).observe(document.body, { attributeFilter: ["class"] });
