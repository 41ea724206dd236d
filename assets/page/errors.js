// An error that appears out of sight is scrolled into view; where its button is near, both are seen.
const told = new WeakSet();
onChange(() => {
  for (const error of document.querySelectorAll(".message.error, .message.warning[role=alert]")) {
    if (told.has(error) || !visible(error)) continue;
    told.add(error);
    error.scrollIntoView({ block: "nearest" });
  }
});
