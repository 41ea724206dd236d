// Runs before Gradio's scripts. While the page opens, Gradio reads all events of the page for each of its components, and does
// so twice. It makes the list reactive before, to the last entry, although nothing of it ever changes; that took a second.
// Svelte leaves objects of a class of their own as they are. What follows another event is an event of no component; Gradio
// would search the whole page for that one.
(() => {
  class Events extends Array {}
  class Event {}
  const events = window.gradio_config?.dependencies ?? [];
  Object.setPrototypeOf(events, Events.prototype);
  for (const event of events) {
    Object.setPrototypeOf(event, Event.prototype);
    event.targets = event.targets.filter(([component]) => component !== null);
  }
})();
