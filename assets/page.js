// Keyboard shortcuts of the page: Ctrl+Enter runs the open tab, Escape stops it. Buttons are found by their element id.
(() => {
  const visible = (element) => element && element.offsetParent !== null;
  const button = (id) => {
    const found = document.getElementById(id);
    return found && (found.tagName === "BUTTON" ? found : found.querySelector("button"));
  };
  const press = (candidates) => {
    const target = candidates.find((element) => element && visible(element) && !element.disabled);
    if (target) target.click();
    return Boolean(target);
  };
  const RUNS = ["draw-run", "edit-run", "compare-run", "grid-run"];
  const STOPS = ["draw-stop", "edit-stop", "compare-stop", "grid-stop", "model-cancel"];
  const inBox = (name) => document.querySelector(`#chat-box .${name}`);

  document.addEventListener("keydown", (event) => {
    if (event.isComposing) return; // the Enter that ends a word of an input method is not a command
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      if (press([inBox("submit-button"), ...RUNS.map(button)])) {
        event.preventDefault();
        event.stopPropagation();
      }
    } else if (event.key === "Escape") {
      press([inBox("stop-button"), ...STOPS.map(button)]);
    }
  }, true);

  // Single-character shortcuts, unless the user is typing or has switched them off; buttons of the footer and the tour.
  const PROMPTS = ["draw-prompt", "edit-prompt", "compare-prompt", "chat-box", "history-words"];
  const store = { // a browser may forbid storage; then nothing is stored
    get: (key) => { try { return localStorage.getItem(key); } catch { return null; } },
    set: (key, value) => { try { localStorage.setItem(key, value); } catch { /* not stored */ } },
  };
  const sheet = () => document.getElementById("keys-sheet");
  const tour = () => document.getElementById("tour-card");
  const steps = () => [...tour().querySelectorAll("p")];
  const showStep = (number) => {
    steps().forEach((step, index) => { step.hidden = index !== number; });
    tour().querySelector("[data-janus=next]").hidden = number === steps().length - 1;
    tour().hidden = false;
  };
  const dark = (on) => document.body.classList.toggle("dark", on);
  const acts = {
    keys: () => sheet().showModal(),
    close: () => sheet().close(),
    theme: () => {
      const on = !document.body.classList.contains("dark");
      dark(on);
      store.set("janus-theme", on ? "dark" : "light");
    },
    tour: () => {
      showStep(0);
      tour().scrollIntoView({ block: "nearest" });
    },
    next: () => showStep(steps().findIndex((step) => !step.hidden) + 1),
    enough: () => {
      tour().hidden = true;
      store.set("janus-tour", "done");
    },
    forget: () => {
      for (const key of Object.keys(localStorage)) if (key.startsWith("janus-")) localStorage.removeItem(key);
      location.reload();
    },
  };
  document.addEventListener("click", (event) => {
    const act = event.target.closest?.("[data-janus]")?.dataset.janus;
    if (act) acts[act]();
    if (event.target.id === "keys-single") store.set("janus-keys", event.target.checked ? "on" : "off");
  });
  const tabs = () => [...(document.querySelectorAll("#tabs > .tab-wrapper [role=tab]"))].filter(visible);
  const singles = {
    "?": acts.keys,
    "/": () => PROMPTS.map((id) => document.querySelector(`#${id} textarea, #${id} input`)).find(visible)?.focus(),
    r: () => press([button("draw-surprise")]),
    d: acts.theme,
  };
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input:not([type=checkbox]), textarea, select, [contenteditable=true]");
    if (typing || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (sheet()?.open || store.get("janus-keys") === "off") return;
    const tab = /^[1-9]$/.test(event.key) && tabs()[Number(event.key) - 1];
    const act = tab ? () => tab.click() : singles[event.key.toLowerCase()];
    if (!act) return;
    event.preventDefault();
    act();
  });
  const initialize = () => { // the tour and the sheet once each, as soon as Gradio has built them
    if (tour() && !tour().dataset.initialized) {
      tour().dataset.initialized = "yes";
      if (store.get("janus-tour") !== "done") showStep(0);
    }
    if (sheet() && !sheet().dataset.initialized) {
      sheet().dataset.initialized = "yes";
      document.getElementById("keys-single").checked = store.get("janus-keys") !== "off";
      const theme = store.get("janus-theme");
      if (theme && !new URLSearchParams(location.search).has("__theme")) dark(theme === "dark");
    }
  };

  // Called at the end of Python handlers (janus_app/ui/common/actions.py): press a button once it is enabled, download a
  // file, copy a text.
  const wait = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
  // A stopped job has ended when the server says so. Gradio asks the server to stop it, but does not wait for the answer.
  let stopping = 0;
  const browserFetch = window.fetch;
  // Gradio reads the value of the picture editor at every change of any status, once a second at least, and uploads it each
  // time. The server stores uploads by their content and would answer the same, so it is asked once.
  const KEPT = 600_000; // milliseconds; the server keeps uploads for a day
  const uploads = new Map();
  const digest = async (file) => { // FNV-1a in two lanes; browsers offer hashes only to local and https pages
    let one = 0x811c9dc5, two = file.size;
    for (const byte of new Uint8Array(await file.arrayBuffer())) {
      one = Math.imul(one ^ byte, 0x01000193);
      two = Math.imul(two ^ byte, 0x85ebca6b) + 0x165667b1 | 0;
    }
    return [file.name, file.size, one, two].join();
  };
  const upload = async (...request) => {
    const form = request[1]?.body, files = form instanceof FormData ? [...form.values()] : [];
    if (files.length !== 1 || !(files[0] instanceof File)) return browserFetch(...request);
    const key = await digest(files[0]);
    if (!(Date.now() - uploads.get(key)?.time < KEPT)) {
      if (uploads.size > 30) uploads.clear();
      const answer = browserFetch(...request).then(async (got) => [await got.text(), got.status]);
      uploads.set(key, { time: Date.now(), answer });
    }
    try {
      const [text, status] = await uploads.get(key).answer;
      if (status !== 200) uploads.delete(key);
      return new Response(text, { status, headers: { "content-type": "application/json" } });
    } catch (error) {
      uploads.delete(key);
      throw error;
    }
  };
  window.fetch = async (...request) => {
    if (/\/upload$/.test(String(request[0]))) return upload(...request);
    const stops = /\/(cancel|reset)$/.test(String(request[0])) ? 1 : 0;
    const count = (change) => document.body.classList.toggle("ending", (stopping += change) > 0);
    if (stops) count(1);
    try {
      return await browserFetch(...request);
    } finally {
      if (stops) count(-1);
    }
  };
  // A stroke painted while the next picture is on its way to the editor would be lost when it arrives, so the editor takes
  // none until then (style.css). The strip of the edit tab names the picture that the server sent last; Gradio's editor
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
  window.janus = {
    shown: () => {}, // the picture in the editor is there
    settled: async () => {
      do await wait(30); while (stopping);
    },
    press: async (id) => {
      const find = () => (id === "chat-box" ? inBox("submit-button") : button(id));
      await wait(200); // until the values of the previous step have reached their components
      for (let tries = 0; tries < 400 && !(visible(find()) && !find().disabled); tries += 1) await wait(50);
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
      } catch { // browsers offer a clipboard only to local and https pages
        const field = Object.assign(document.createElement("textarea"), { value: text });
        document.body.append(field);
        field.select();
        document.execCommand("copy");
        field.remove();
      }
    },
  };

  // On a phone the list of conversations would push the chat off the screen, so it is folded at first. A click before
  // Gradio is ready is lost, so it is repeated until it works.
  const fold = async () => {
    for (let tries = 0; tries < 40; tries += 1) {
      await wait(250);
      const head = document.querySelector("#chat-list-panel > .label-wrap");
      if (head && !head.classList.contains("open")) return;
      if (head) head.click();
    }
  };
  if (window.innerWidth <= 640) fold();

  const give = (id, file) => {
    const input = document.querySelector(`#${id} input[type=file]`);
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

  // A file dropped beside every place that takes one goes to the page's own: the server looks what it is.
  const hasFiles = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
  const inDropArea = (event) => event.target.closest?.(".block")?.querySelector("input[type=file]");
  document.addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (!hasFiles(event) || inDropArea(event)) return;
    event.preventDefault(); // otherwise the browser would open the picture in place of the page
    give("page-drop", event.dataTransfer.files[0]);
  });

  // Gradio does not connect the hidden label of the chat box with its text fields.
  const labelChatFields = () => {
    const label = document.querySelector("#chat-box [data-testid=block-info]");
    for (const field of document.querySelectorAll("#chat-box textarea, #chat-bot textarea"))
      if (label && !field.hasAttribute("aria-label")) field.setAttribute("aria-label", label.textContent.trim());
  };
  // Gradio's gallery uses the caption as alternative text; the real alternative texts are in a hidden list.
  const setAltTexts = () => {
    for (const entry of document.querySelectorAll("#draw-alts [data-picture]")) {
      const ending = "/" + encodeURIComponent(entry.dataset.picture);
      for (const picture of document.querySelectorAll("#draw-gallery img"))
        if (picture.src.endsWith(ending) && picture.alt !== entry.dataset.alt) picture.alt = entry.dataset.alt;
    }
  };
  const changes = { subtree: true, childList: true, attributes: true, attributeFilter: ["src", "alt"] };
  new MutationObserver(setAltTexts).observe(document.documentElement, changes);
  new MutationObserver(() => { labelChatFields(); initialize(); awaitPicture(); }).observe(document.documentElement, { subtree: true, childList: true });
})();
