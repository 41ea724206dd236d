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
  const RUNS = ["draw-run", "edit-run", "compare-run", "grid-run"];
  const STOPS = ["draw-stop", "edit-stop", "compare-stop", "grid-stop", "model-cancel"];
  const inBox = (name) => document.querySelector(`#chat-box .${name}`);

  document.addEventListener("keydown", (event) => {
    if (event.isComposing) return; // the Enter that ends a Chinese word is not a command
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      if (press([inBox("submit-button"), ...RUNS.map(button)])) {
        event.preventDefault();
        event.stopPropagation();
      }
    } else if (event.key === "Escape") {
      press([inBox("stop-button"), ...STOPS.map(button)]);
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

  // On a phone the list of conversations would push the chat out of sight: it begins folded there. A click before
  // the page is alive is lost, so it is tried until it is seen to work.
  const fold = async () => {
    for (let tries = 0; tries < 40; tries += 1) {
      await wait(250);
      const head = document.querySelector("#chat-list-panel > .label-wrap");
      if (head && !head.classList.contains("open")) return;
      if (head) head.click();
    }
  };
  if (window.innerWidth <= 640) fold();

  // A file dropped beside every place that takes one goes to the page's own: the server looks what it is.
  const carries = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
  const taken = (event) => event.target.closest?.(".block")?.querySelector("input[type=file]");
  document.addEventListener("dragover", (event) => carries(event) && event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (!carries(event) || taken(event)) return;
    event.preventDefault(); // or the browser leaves the page for the picture
    const input = document.querySelector("#page-drop input[type=file]");
    const file = event.dataTransfer.files[0];
    if (!input || !file) return;
    const one = new DataTransfer();
    one.items.add(file);
    input.files = one.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  });

  // Gradio's chat box has a visible-to-nobody label beside its text fields and no link between them.
  const name = () => {
    const label = document.querySelector("#chat-box [data-testid=block-info]");
    for (const field of document.querySelectorAll("#chat-box textarea, #chat-bot textarea"))
      if (label && !field.hasAttribute("aria-label")) field.setAttribute("aria-label", label.textContent.trim());
  };
  new MutationObserver(name).observe(document.documentElement, { subtree: true, childList: true });
})();
