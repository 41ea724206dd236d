const give = async (id, file) => {
  const find = () => document.querySelector(`#${id} input[type=file]`);
  for (let tries = 0; file && !find() && tries < 600; tries += 1) await wait(50); // Gradio may still build it
  const input = find();
  if (!input || !file) return;
  const one = new DataTransfer();
  // The beginning of a model too large for an upload says what it is.
  const isModel = /\.(safetensors|bin|ckpt|pth?|gguf|onnx|h5|msgpack)$/i.test(file.name);
  one.items.add(isModel && file.size > 2e7 ? new File([file.slice(0, 1e6)], file.name) : file);
  input.files = one.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
};
// A file for the editor goes to the server, which reads kinds of pictures that browsers do not, says what is wrong with
// one, and sends the editor a PNG.
const intoEditor = (event, files) => {
  if (!files?.length || !event.target.closest?.("#edit-editor")) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  give("edit-given", files[0]);
};
document.addEventListener("change", (event) => {
  if (event.target.type !== "file") return;
  intoEditor(event, event.target.files);
  if (event.target.closest("#edit-editor")) event.target.value = ""; // the same file can be chosen again
}, true);
document.addEventListener("drop", (event) => {
  intoEditor(event, event.dataTransfer?.files);
  if (event.defaultPrevented) event.target.dispatchEvent(new DragEvent("dragleave", { bubbles: true }));
}, true);

document.addEventListener("paste", (event) => {
  const files = event.clipboardData?.files, target = document.getElementById("edit-editor");
  if (!files?.length || !visible(target) || event.target.closest?.("#edit-more")) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  give("edit-given", files[0]);
}, true);

// A file dropped beside every place that takes one goes to the page's own: the server looks what it is.
const hasFiles = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
const inDropArea = (event) => event.target.closest?.(".block")?.querySelector("input[type=file]");
document.addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
document.addEventListener("drop", (event) => {
  if (!hasFiles(event) || inDropArea(event)) return;
  event.preventDefault(); // otherwise the browser would open the picture in place of the page
  give("page-drop", event.dataTransfer.files[0]);
});
