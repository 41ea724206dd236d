// Keys of the page: Ctrl+Enter runs the open tab, Escape stops it. Buttons are found by id, so no widget knows of this.
(() => {
  const seen = (element) => element && element.offsetParent !== null;
  const button = (id) => {
    const found = document.getElementById(id);
    return found && (found.tagName === "BUTTON" ? found : found.querySelector("button"));
  };
  const press = (candidates) => {
    const target = candidates.find((element) => seen(element) && !element.disabled);
    if (target) target.click();
    return Boolean(target);
  };
  const inBox = (name) => document.querySelector(`#chat-box .${name}`);

  document.addEventListener("keydown", (event) => {
    if (event.isComposing) return; // the Enter that ends a Chinese word is not a command
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      if (press([inBox("submit-button"), button("draw-run"), button("edit-run")])) {
        event.preventDefault();
        event.stopPropagation();
      }
    } else if (event.key === "Escape") {
      press([inBox("stop-button"), button("draw-stop"), button("edit-stop"), button("model-cancel")]);
    }
  }, true);

  // Gradio gives some icon buttons and inputs no name of their own; screen readers need one.
  document.documentElement.dataset.janus = "ready";
})();
