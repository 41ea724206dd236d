// Keys of the page: Ctrl+Enter runs the open tab, Escape stops it. Buttons are found by id, so no widget knows of this.
(() => {
  const seen = (element) => element && element.offsetParent !== null;
  const button = (id) => {
    const found = document.getElementById(id);
    return found && (found.tagName === "BUTTON" ? found : found.querySelector("button"));
  };
  const press = (candidates) => {
    const target = candidates.find((element) => element && seen(element) && !element.disabled);
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

  // What steps of Python handlers end with: press a button once it can be pressed, hand over a file or a text.
  const wait = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
  window.janus = {
    press: async (id) => {
      const find = () => (id === "chat-box" ? inBox("submit-button") : button(id));
      await wait(200); // the values the step before has set reach their widgets first
      for (let tries = 0; tries < 100 && !(seen(find()) && !find().disabled); tries += 1) await wait(50);
      press([find()]);
    },
    download: (file) => {
      if (!file) return;
      const link = Object.assign(document.createElement("a"), { href: file.url, download: file.orig_name || "" });
      document.body.append(link);
      link.click();
      link.remove();
    },
    copy: async (text) => {
      try {
        await navigator.clipboard.writeText(text);
      } catch { // pages that are neither local nor https have no clipboard of their own
        const field = Object.assign(document.createElement("textarea"), { value: text });
        document.body.append(field);
        field.select();
        document.execCommand("copy");
        field.remove();
      }
    },
  };

  // Gradio's chat box has a visible-to-nobody label beside its text field and no link between the two.
  const name = () => {
    const field = document.querySelector("#chat-box textarea:not([aria-label])");
    const label = document.querySelector("#chat-box [data-testid=block-info]");
    if (field && label) field.setAttribute("aria-label", label.textContent.trim());
  };
  new MutationObserver(name).observe(document.documentElement, { subtree: true, childList: true });
})();
