// The list of conversations beside the chat, open or not as it was left; on a phone it covers the page and starts closed.
const narrowChat = () => window.innerWidth <= 640;
const showSide = (on) => {
  document.body.classList.toggle("chat-side-closed", !on);
  for (const toggle of document.querySelectorAll("[data-chat-side]")) toggle.setAttribute("aria-expanded", String(on));
};
document.addEventListener("click", (event) => {
  const on = !document.body.classList.contains("chat-side-closed");
  if (event.target.closest?.("[data-chat-side]")) {
    showSide(!on);
    if (!narrowChat()) store.set("janus-chat-side", on ? "closed" : "open");
  } else if (narrowChat() && on && !event.target.closest?.("#chat-side, #chat-list-menu")) showSide(false);
});

// The buttons in the messages press those of the hidden row of actions, once the server knows for which picture.
let chosenAct = "";
document.addEventListener("click", (event) => {
  const from = event.target.closest?.("[data-key]");
  if (event.target.closest?.("[data-chat-stop]")) inBox("stop-button")?.click();
  if (!from) return;
  chosenAct = from.dataset.chatAct ?? "";
  window.janus.chat.picture(from.dataset.key);
  if (chosenAct !== "menu") return;
  const menu = document.getElementById("chat-menu");
  menu.showPopover();
  placeMenu(menu, from);
});
const pressChosen = () => chosenAct !== "menu" && button(`chat-${chosenAct}`)?.click();

// The list's events; `element` stays, its content is replaced by the server. One menu serves all rows.
const conversations = (element, trigger) => {
  let at = null; // the row of the open menu
  const menu = () => element.querySelector("#chat-list-menu");
  const openMenu = (dots) => {
    at = dots.closest("li");
    menu().querySelector(".items").hidden = false;
    menu().querySelector(".sure").hidden = true;
    menu().showPopover({ source: dots });
    const place = dots.getBoundingClientRect(), box = menu().getBoundingClientRect();
    menu().style.left = `${Math.min(place.left, window.innerWidth - box.width - 8)}px`;
    menu().style.top = `${Math.min(place.bottom + 4, window.innerHeight - box.height - 8)}px`;
    menu().querySelector("button").focus();
  };
  const rename = (row) => {
    const name = row.querySelector(".row"), before = name.textContent;
    const field = Object.assign(document.createElement("input"), { value: before, className: "row", maxLength: 120 });
    field.setAttribute("aria-label", element.querySelector("ul").dataset.name);
    let ended = false; // a field that leaves the page loses the focus, which would end it again
    const end = (keep) => {
      if (ended) return;
      ended = true;
      if (!field.isConnected) return;
      field.replaceWith(name);
      if (keep && field.value.trim() !== before) trigger("rename", { id: row.dataset.id, title: field.value });
      name.focus();
    };
    field.addEventListener("keydown", (event) => {
      if (event.isComposing || (event.key !== "Enter" && event.key !== "Escape")) return;
      event.stopPropagation();
      end(event.key === "Enter");
    });
    field.addEventListener("blur", () => end(true));
    name.replaceWith(field);
    field.select();
  };
  const acts = {
    rename: () => rename(at),
    md: () => trigger("export", { id: at.dataset.id, kind: "md" }),
    json: () => trigger("export", { id: at.dataset.id, kind: "json" }),
    yes: () => trigger(at.getAttribute("aria-current") ? "discard" : "remove", { id: at.dataset.id }),
    no: () => at.querySelector(".of-row").focus(),
    delete: () => {
      menu().querySelector(".items").hidden = true;
      menu().querySelector(".sure").hidden = false;
      menu().querySelector("[data-act=no]").focus();
    },
  };
  element.addEventListener("click", (event) => {
    const dots = event.target.closest(".of-row"), act = event.target.closest("[data-act]")?.dataset.act;
    const row = event.target.closest("button.row");
    if (dots) openMenu(dots);
    if (row) {
      trigger("open", { id: row.parentElement.dataset.id });
      if (narrowChat()) showSide(false);
    }
    if (!act) return;
    if (act !== "delete") menu().hidePopover();
    acts[act]();
  });
};

// What joins or leaves the message box is looked at by the server.
let inChatBox = "";
const watchChatFiles = () => {
  const box = document.getElementById("chat-box");
  if (!box || !window.janus.chat) return;
  const files = [...box.querySelectorAll(".thumbnail-item img, .thumbnail-item, .thumbnail-image")].map((e) => e.src || "").join();
  if (files === inChatBox) return;
  inChatBox = files;
  window.janus.chat.files();
};
onChange(watchChatFiles);

// The chat fills the window below whatever stands above it.
const fitChat = () => {
  const row = document.querySelector(".chat-row");
  if (!visible(row)) return;
  const top = `${Math.round(row.getBoundingClientRect().top + window.scrollY)}px`;
  if (row.style.getPropertyValue("--chat-top") !== top) row.style.setProperty("--chat-top", top);
};
const fitSoon = beforeFrame(fitChat);
onChange(fitSoon);
window.addEventListener("resize", fitSoon);

// Gradio does not connect the hidden label of the chat box with its text fields, and has no name for our one button.
const labelChatFields = () => {
  const label = document.querySelector("#chat-box [data-testid=block-info]");
  for (const field of document.querySelectorAll("#chat-box textarea, #chat-bot textarea"))
    if (label && !field.hasAttribute("aria-label")) field.setAttribute("aria-label", label.textContent.trim());
  const side = document.querySelector("[data-chat-side]:not([aria-label])"), list = document.querySelector("#chat-list ul");
  if (side && list) {
    side.setAttribute("aria-label", list.getAttribute("aria-label"));
    side.title = list.getAttribute("aria-label");
    showSide(!narrowChat() && store.get("janus-chat-side") !== "closed");
  }
};
onChange(labelChatFields);

// The settings close like a menu.
const closeSettings = (event) => {
  const open = document.querySelector("#chat-settings > .label-wrap.open");
  if (!open || event.target.closest?.("#chat-settings")) return;
  open.click();
};
document.addEventListener("pointerdown", closeSettings);
document.addEventListener("keydown", (event) => {
  const open = document.querySelector("#chat-settings > .label-wrap.open");
  if (event.key === "Escape" && open) {
    open.click();
    open.focus();
  }
});
