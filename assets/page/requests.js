// What the page asks the server: the outcome of every event, and whether a stopped job has ended.
// A stopped job has ended when the server says so. Gradio asks the server to stop it, but does not wait for the answer.
let stopping = 0;
// Gradio aborts what it asks when the page is left, and logs each of its own aborts as an error. While a page is left its
// failures wait; they are told only where it turns out not to be left: a refresh may be stopped, and a link may be a
// download. Gradio's listener is older than this one, so its aborts wait for a moment.
const LEAVING = 20_000; // milliseconds
let leaving = false;
window.addEventListener("beforeunload", () => {
  leaving = true;
  setTimeout(() => leaving = false, LEAVING);
});
window.addEventListener("pageshow", () => leaving = false);
const unlessLeaving = async (error) => {
  await wait(0);
  if (leaving) await wait(LEAVING);
  return Promise.reject(error);
};
const itsFetch = window.fetch;
const browserFetch = (...request) => itsFetch(...request).catch(unlessLeaving);
// The page hears the outcomes of its events over one stream, which the server ends when no event is left. Gradio takes a
// stream that is about to end for an open one: it would never hear of an event that it asks for at that moment. So the end
// is kept from it while an event is asked for or not over, and the stream goes on with the server's next one. An event may
// be over before the question for it is answered: nothing comes of it in another stream, which would never end, and Gradio
// would open one if it heard of the end before it has read the answer.
const events = new Set(); // asked for and not over, by id
const early = new Set(); // over before the server's answer to the question was there
let asking = 0, closing = false;
const join = async (...request) => {
  asking += 1;
  try {
    const answer = await browserFetch(...request);
    const { event_id: id } = await answer.clone().json().catch(() => ({}));
    if (id && !early.delete(id)) events.add(id);
    for (let tries = 0; closing && tries < 100; tries += 1) await wait(10);
    return answer;
  } finally {
    asking -= 1;
  }
};
const noneLeft = async () => {
  do {
    while (asking) await wait(10);
    await wait(50); // until Gradio has read the answer
  } while (asking);
  return !events.size;
};
// Passes messages on; returns whether there are more to come from another stream.
const forward = async (answer, out) => {
  const reader = answer.body.getReader(), decoder = new TextDecoder(), encoder = new TextEncoder();
  let rest = "";
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const messages = (rest + decoder.decode(part.value, { stream: true })).split("\n\n");
    rest = messages.pop();
    for (const message of messages) {
      const [, kind, id] = /"msg":\s*"(\w+)"(?:,\s*"event_id":\s*"(\w+)")?/.exec(message.slice(0, 300)) || [];
      if (kind === "close_stream" && !await noneLeft()) return true;
      if (kind === "process_completed" && id && !events.delete(id)) early.add(id);
      closing = kind === "close_stream";
      out.enqueue(encoder.encode(`${message}\n\n`));
    }
  }
  return false;
};
const listen = async (request) => {
  const first = await browserFetch(request);
  if (!first.ok || !first.body) return first;
  request.signal.addEventListener("abort", () => closing = false); // Gradio has read the end
  const start = async (out) => {
    try {
      let answer = first;
      while (answer.ok && await forward(answer, out)) answer = await browserFetch(request);
      if (!answer.ok) out.enqueue(new TextEncoder().encode('data: {"msg":"close_stream"}\n\n'));
      out.close();
    } catch (error) {
      unlessLeaving(error).catch((failed) => out.error(failed));
    }
  };
  return new Response(new ReadableStream({ start: (out) => void start(out) }), first);
};
// The server answers questions outside of the queue in any order. For each component the newest question counts: of an
// answer that comes later than that of a newer one, what the newer one has answered already is left out.
let questions = 0;
const answered = new Map(); // component and what of it is set: the number of the newest question with an answer for that
const AS_IT_IS = { __type__: "update" };
const isNewest = (component, key, number) => {
  const name = `${component} ${key}`;
  if (answered.get(name) > number) return false;
  answered.set(name, number);
  return true;
};
const newest = (component, value, number) => {
  if (value?.__type__ !== "update") return isNewest(component, "value", number) ? value : AS_IT_IS;
  return Object.fromEntries(Object.entries(value).filter(([key]) => key === "__type__" || isNewest(component, key, number)));
};
// What the user enters while an answer is on its way is newer than the answer, and stays. The first time that a tab gets
// the settings of a model (then its hidden box "...-fitted" is empty), all stays that was entered since the page opened.
const FIELDS = new Set(["textbox", "number", "slider", "checkbox", "radio", "dropdown"]);
const fields = new Map(); // id of a component in which something can be entered: that of its element
const fieldOf = (component) => {
  const all = fields.size ? [] : window.gradio_config.components.filter(({ type }) => FIELDS.has(type));
  for (const { id, props } of all) fields.set(id, props.elem_id);
  return fields.get(component);
};
const unfitted = ({ inputs }, given) => inputs.some((id, place) => fieldOf(id)?.endsWith("-fitted") && given[place] === "");
// The update without its value; with it where what was entered is outside of new limits.
const withoutValue = (field, update) => {
  const { value, ...others } = update?.__type__ === "update" ? update : AS_IT_IS;
  const now = document.querySelector(`#${field} input[type=number]`)?.value;
  return now < others.minimum || now > others.maximum ? update : others;
};
const ask = async (...request) => {
  const number = ++questions, asked = performance.now(), answer = await browserFetch(...request);
  const { fn_index: index, data: given } = JSON.parse(request[1].body);
  const event = window.gradio_config.dependencies.find(({ id }) => id === index);
  if (!answer.ok || !event) return answer;
  const { outputs } = event, since = unfitted(event, given) ? 0 : asked;
  const content = await answer.json();
  content.data = content.data?.map((value, place) => {
    const set = newest(outputs[place], value, number), field = fieldOf(outputs[place]);
    return entered.get(field) > since ? withoutValue(field, set) : set;
  });
  return Response.json(content, { status: answer.status });
};
// A run that is started before its tab has the settings of the model waits for them: the server knows them already and would
// refuse what is still outside of their limits, without a word on the page.
const OPENED_WITHIN = 60_000; // milliseconds
const SETTINGS = { compare: "#side-b-model input" }; // is empty until the models and their settings are there
const hasSettings = (tab) =>
  document.querySelector(SETTINGS[tab] ?? `#${tab}-fitted textarea, #${tab}-fitted input`)?.value !== "";
document.addEventListener("click", async (event) => {
  const run = event.target.closest?.("#draw-run, #edit-run, #compare-run"), tab = run?.id.split("-")[0];
  if (!run || hasSettings(tab) || run.dataset.late) return;
  event.stopImmediatePropagation();
  if (run.ariaBusy) return;
  run.ariaBusy = "true";
  for (const since = Date.now(); !hasSettings(tab) && Date.now() - since < OPENED_WITHIN;) await wait(50);
  await wait(200); // until the settings have reached their components
  run.ariaBusy = null;
  run.dataset.late = "no more";
  run.click();
}, true);

window.fetch = async (...request) => {
  if (request[0] instanceof Request && /\/queue\/data\?/.test(request[0].url)) return listen(request[0]);
  if (/\/queue\/join\?/.test(String(request[0]))) return join(...request);
  if (/\/run\/[^/]*$/.test(String(request[0]))) return ask(...request);
  const stops = /\/(cancel|reset)$/.test(String(request[0])) ? 1 : 0;
  const count = (change) => document.body.classList.toggle("ending", (stopping += change) > 0);
  if (stops) count(1);
  try {
    return await browserFetch(...request);
  } finally {
    if (stops) {
      count(-1);
      events.delete(/"event_id":\s*"(\w+)"/.exec(String(request[1]?.body))?.[1]);
    }
  }
};
