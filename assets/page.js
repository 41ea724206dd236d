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

  // Gradio's chat box has a visible-to-nobody label beside its text field and no link between the two.
  const name = () => {
    const field = document.querySelector("#chat-box textarea:not([aria-label])");
    const label = document.querySelector("#chat-box [data-testid=block-info]");
    if (field && label) field.setAttribute("aria-label", label.textContent.trim());
  };
  new MutationObserver(name).observe(document.documentElement, { subtree: true, childList: true });
})();
