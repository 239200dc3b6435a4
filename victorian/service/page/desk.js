// The desk: what its buttons do, and what the writer is told.

const place = new URL(location.href);
if (!place.pathname.endsWith("/")) place.pathname += "/";
const shelf = new Shelf(`victorian ${place.pathname}`);

const NEAR = 120; // pixels of text below what is seen, at which the page still follows what is written

const at = (id) => document.getElementById(id);
const buttons = { write: at("write"), stop: at("stop"), retry: at("retry"), copy: at("copy") };
const manuscript = new Manuscript(at("manuscript"), at("mirror"));
const settings = new Settings(at("settings"), at("choice"));
const figures = new Figures(at("figures"));
const connection = new Connection(
  new URL("v1/stream", place).href.replace(/^http/, "ws"),
  Number(document.body.dataset.protocol),
);

/** The generation under way: what is asked, what has come of it, and `phase`: waiting, asking or asked. */
let current = null;
let asked = 0;
/** Versions of the last passage, `{text, parts}`; null for the one in its place. */
let versions = [];

function keep() {
  flush();
  const { text, parts } = manuscript;
  shelf.write("manuscript", text ? { text, parts } : null);
}

// What the writer is told. The status is read aloud, so it changes when something happens, and not with every token.

function say(words, trouble = false) {
  at("status").textContent = words;
  at("status").toggleAttribute("data-trouble", trouble);
}

function refresh() {
  const { text, parts, passage } = manuscript;
  const able = {
    write: !current && !["refused", "foreign"].includes(connection.state),
    stop: current !== null,
    retry: !current && passage !== null,
    copy: text !== "",
  };
  for (const [name, button] of Object.entries(buttons)) button.setAttribute("aria-disabled", String(!able[name]));
  buttons.write.textContent = parts.length ? "Continue" : "Write";
  at("takes").hidden = versions.length < 2 || current !== null || passage === null;
  at("take").textContent = `${versions.indexOf(null) + 1} of ${versions.length}`;
  if (at("authors").open) showPassages();
}

function showPassages() {
  const items = manuscript.passages().map(({ model, text }) => {
    const item = document.createElement("li");
    item.dir = "auto";
    const who = document.createElement("b");
    who.textContent = model ? "The model" : "You";
    item.append(who, text.trim());
    return item;
  });
  at("passages").replaceChildren(...items);
}

// A generation, from a button to its end.

function begin(seed) {
  const parameters = settings.parameters();
  if (parameters === null) {
    say(settings.problem, true);
    return false;
  }
  // Drawn here, because a seed of the service's may have more digits than a browser keeps.
  parameters.seed = seed ?? parameters.seed ?? crypto.getRandomValues(new Uint32Array(1))[0];
  current = {
    parameters, phase: "waiting", began: performance.now(), first: null, tokens: 0, unwritten: "", tries: 0, read: 0,
  };
  figures.clear();
  return true;
}

function write() {
  if (current || !begin()) return;
  manuscript.begin();
  versions = [null];
  current.prompt = manuscript.text;
  go();
}

function retry() {
  if (current || !begin(crypto.getRandomValues(new Uint32Array(1))[0])) return;
  current.before = versions.indexOf(null);
  versions[current.before] = manuscript.replace({ text: "", parts: [] });
  versions.push(null);
  current.prompt = manuscript.text.slice(0, manuscript.passage.start);
  go();
}

function go() {
  say("Writing…");
  refresh();
  connection.wake();
  if (connection.state === "open") ask();
}

async function ask() {
  const mine = current;
  const id = String(++asked);
  Object.assign(mine, { id, phase: "asking" });
  clearTimeout(mine.timer);
  const model = connection.models.find((one) => one.id === settings.model) ?? connection.models[0];
  let prompt = mine.prompt.toWellFormed?.() ?? mine.prompt;
  try {
    // A token has four letters and more; a text that is shorter than two a token is sent as it is.
    if (mine.long || prompt.length > 2 * model.context) {
      prompt = await lastTokens(prompt, model, mine.parameters.max_tokens ?? model.context, place, connection.key);
      mine.read = prompt.cut ? prompt.tokens.length : 0;
      prompt = prompt.tokens;
    }
  } catch (error) {
    if (current === mine && mine.id === id) heedError(error);
    return;
  }
  if (current !== mine || mine.id !== id || connection.state !== "open") return;
  mine.phase = "asked";
  connection.send({ type: "generate", id, model: model.id, prompt, parameters: mine.parameters });
}

function stop() {
  if (!current) return;
  if (current.phase === "asked" && connection.state === "open") connection.send({ type: "cancel", id: current.id });
  else finish("Stopped before it began.");
}

/** Write down what has come. Once a frame: a browser can draw no more. */
function flush() {
  if (!current?.unwritten) return;
  const [sheet, desk] = [at("sheet"), at("desk")];
  const hidden = () => sheet.getBoundingClientRect().bottom - desk.getBoundingClientRect().top;
  const following = hidden() < NEAR;
  manuscript.write(current.unwritten);
  current.unwritten = "";
  figures.running(current);
  if (following && hidden() > 0) scrollBy({ top: hidden(), behavior: "instant" });
}

function finish(words, trouble = false) {
  flush();
  clearTimeout(current.timer);
  const { start, end } = manuscript.passage;
  if (current.before !== undefined && start === end) {
    versions.pop(); // nothing came: what was there before comes back
    manuscript.replace(versions[current.before]);
    versions[current.before] = null;
  }
  current = null;
  say(words, trouble);
  refresh();
  keep();
}

function turn(step) {
  const [here, there] = [versions.indexOf(null), versions.indexOf(null) + step];
  if (current || !versions[there]) return;
  versions[here] = manuscript.replace(versions[there]);
  versions[there] = null;
  refresh();
  keep();
}

// What the service says.

connection.busy = () => current?.phase === "asked";

connection.onmessage = (message) => {
  if (!current || message.id !== current.id) return;
  if (message.type === "token") {
    if (!current.unwritten) requestAnimationFrame(flush);
    current.tokens += 1;
    current.first ??= performance.now();
    current.unwritten += message.text.replace(/\r\n?/g, "\n"); // as the field itself would
  } else if (message.type === "complete") {
    flush();
    figures.ended(current, message);
    finish(ENDS[message.reason]?.(message.usage.completion_tokens) ?? message.reason);
  } else if (message.type === "error") {
    heedError(message);
  }
};

function heedError({ code, message, param, retry_after_seconds: after = 1 }) {
  const waiting = RETRIED.includes(code) && current.tokens === 0;
  if (code === "unauthorized") {
    finish("The service does not take this key any more.", true);
    showDoor();
  } else if (code === "invalid_request" && param === "prompt" && !current.long) {
    current.long = true;
    ask();
  } else if (waiting && current.tries < TRIES && after <= PATIENCE) {
    const seconds = Math.max(after, 0.5 * 2 ** current.tries);
    current.tries += 1;
    current.phase = "waiting";
    current.timer = setTimeout(() => (connection.state === "open" ? ask() : connection.wake()), seconds * 1000);
    say(`${TROUBLES[code]}. It is asked again in a moment.`);
  } else if (waiting) {
    finish(`${TROUBLES[code]}. Try again in ${Math.ceil(after)} ${Math.ceil(after) === 1 ? "second" : "seconds"}.`, true);
  } else {
    finish(TROUBLES[code] ?? message, true);
  }
}

connection.onstate = (state, words, before) => {
  at("connection").dataset.state = state;
  at("connection").textContent = {
    opening: "Connecting…",
    open: connection.models.length === 1 ? connection.models[0].id : "Connected",
    asleep: "Resting until you write",
    lost: "Not connected. Trying again…",
    refused: "A key is wanted",
    foreign: "Reload this page",
  }[state];
  if (state === "open") {
    settings.offer(connection.models);
    at("door").hidden = true;
    at("forget").hidden = connection.key === null;
    if (current) ask();
    else if (before === "lost") say("Connected again.");
    shelf.write("key", connection.key);
  } else if (state === "lost") {
    lose(words, before);
  } else if (state === "refused") {
    if (current) finish("");
    say(words || "This service wants a key.", words !== "");
    showDoor();
  } else if (state === "foreign") {
    const told = "The service has been renewed and this page is old. Reload it; your text stays.";
    if (current) finish(told, true);
    say(told, true);
  }
  refresh();
};

function lose(words, before) {
  if (current?.tokens) {
    finish("The connection broke off. What has come is kept; Continue goes on from there.", true);
  } else if (current) {
    current.phase = "waiting";
    say("The connection is lost. The model is asked again as soon as the service answers.", true);
  } else if (words || before !== "lost") {
    say(words ? `The service says: ${words}` : "The service does not answer. Your text stays, and this page keeps trying.", true);
  }
}

function showDoor() {
  connection.key = null;
  shelf.write("key", null);
  at("forget").hidden = true;
  at("door").hidden = false;
  // Who is writing goes on writing: no letter of a story ends up in the key's field.
  if (document.activeElement !== manuscript.field || manuscript.text === "") at("key").focus();
}

// What the writer does.

function when(id, type, act) {
  at(id).addEventListener(type, act);
}

const unless = (button, act) => () => button.getAttribute("aria-disabled") === "true" || act();
const press = { write: unless(buttons.write, write), stop: unless(buttons.stop, stop) };
when("write", "click", press.write);
when("stop", "click", press.stop);
when("retry", "click", unless(buttons.retry, retry));
when("earlier", "click", () => turn(-1));
when("later", "click", () => turn(1));
when("authors", "toggle", refresh);

when("copy", "click", unless(buttons.copy, async () => {
  try {
    await navigator.clipboard.writeText(manuscript.text);
  } catch { // over plain http, from elsewhere than this machine, there is no clipboard to write to
    manuscript.field.select();
    document.execCommand("copy");
  }
  if (!current) say("Copied.");
}));

when("door", "submit", (event) => {
  event.preventDefault();
  connection.key = at("key").value.trim();
  at("key").value = "";
  say("");
  connection.open();
  if (!at("door").hidden) manuscript.field.focus();
});

when("forget", "click", () => {
  if (current) stop();
  showDoor();
  connection.open();
});

let saving = null;
manuscript.field.addEventListener("input", () => {
  refresh();
  clearTimeout(saving);
  saving = setTimeout(keep, 500);
});
addEventListener("pagehide", keep);

document.addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    press.write();
  } else if (event.key === "Escape") {
    press.stop();
  }
});

const kept = shelf.read("manuscript");
if (kept) manuscript.restore(kept.text, kept.parts);
connection.key = shelf.read("key");
refresh();
connection.open();
