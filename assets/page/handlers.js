// Called at the end of Python handlers (janus_app/ui/common/actions.py): press a button once it is enabled, download a
// file, copy a text.
window.janus = {
  conversations: (...list) => conversations(...list), // chat.js
  pressChosen: () => pressChosen(),
  editor: (...parts) => openEditor(...parts), // editor.js
  shown: () => {}, // the picture in the editor is there
  settled: async () => {
    do await wait(30); while (stopping);
  },
  press: async (ids) => {
    const find = () => ids.map((id) => (id === "chat-box" ? inBox("submit-button") : button(id))).find(visible);
    await wait(200); // until the values of the previous step have reached their components
    for (let tries = 0; tries < 400 && !(find() && !find().disabled); tries += 1) await wait(50);
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
