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

// Gradio does not connect the hidden label of the chat box with its text fields.
const labelChatFields = () => {
  const label = document.querySelector("#chat-box [data-testid=block-info]");
  for (const field of document.querySelectorAll("#chat-box textarea, #chat-bot textarea"))
    if (label && !field.hasAttribute("aria-label")) field.setAttribute("aria-label", label.textContent.trim());
};
onChange(labelChatFields);
